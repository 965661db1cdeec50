"""A run has one length: the one that is given last, by a word or by the most special file."""

from pathlib import Path

import pytest

from firstlight.api.composed import compose
from firstlight.compose.compose import compose_config
from firstlight.compose.resumed import resumed_config
from firstlight.errors import ConfigError
from firstlight.optim.base import steps_of
from firstlight.sweep.settings import Settings
from firstlight.sweep.space import overrides_of

OLD_RUN = Path(__file__).parent / "old_runs" / "v14-gpt"
TWO = "trainer.max_epochs=2 and trainer.max_steps=9: a run has one length"


def lengths_of(config):
    return {key: value for key, value in config["trainer"].items() if key.startswith("max_")}


def only(**length):
    return {"max_steps": None, "max_epochs": None, "max_tokens": None, **length}


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        (["trainer.max_epochs=2"], only(max_epochs=2)),
        (["trainer.max_tokens=1e5"], only(max_tokens=1e5)),
        (["++trainer.max_tokens=9000"], only(max_tokens=9000)),
        (["experiment=book_chapter5"], only(max_epochs=10)),
        (["experiment=book_chapter5", "trainer.max_steps=7"], only(max_steps=7)),
        (["model=dial", "trainer.max_steps=7"], only(max_steps=7)),
        (["trainer.max_steps=null", "trainer.max_epochs=2"], only(max_epochs=2)),
        (["trainer.max_steps=5", "trainer.max_epochs=2", "trainer.max_steps=null"],
         only(max_epochs=2)),
        ([], only(max_steps=600)),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_length_that_is_given_takes_the_place_of_the_others(words, lengths):
    assert lengths_of(compose_config("train", words)) == lengths


def test_a_length_of_an_experiment_takes_the_place_of_the_default(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    texts = {
        "mine": "trainer: {max_epochs: 3}",
        # The file that is based on another one is the more special one.
        "short": "defaults: [mine]\ntrainer: {max_tokens: 9000}",
        "two": "trainer: {max_tokens: 9000, max_epochs: 3}",
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")

    def composed(*words):
        return lengths_of(compose_config("train", list(words), str(tmp_path)))

    assert composed("experiment=mine") == only(max_epochs=3)
    assert composed("experiment=short") == only(max_tokens=9000)
    assert composed("experiment=mine", "trainer.max_steps=7") == only(max_steps=7)
    assert composed("experiment=mine", "trainer.max_epochs=null") == only(max_steps=600)
    # Which of the two is meant nobody can tell: the run refuses them.
    assert composed("experiment=two") == {"max_steps": 600, "max_epochs": 3, "max_tokens": 9000}


def test_two_lengths_are_refused_wherever_they_are_given():
    words = ["trainer.max_epochs=2", "trainer.max_steps=9"]
    with pytest.raises(ConfigError, match=TWO):
        compose_config("train", words)
    with pytest.raises(ConfigError, match=TWO):
        compose(trainer={"max_epochs": 2, "max_steps": 9})
    with pytest.raises(ConfigError, match=TWO):
        resumed_config([*words, f"resume={OLD_RUN}"])


def test_a_run_may_be_resumed_with_a_length_of_another_kind():
    config = resumed_config(["trainer.max_epochs=2", f"resume={OLD_RUN}"])
    assert config is not None
    assert lengths_of(config) == only(max_epochs=2)


def test_a_length_that_is_given_takes_the_place_of_one_of_the_sweep():
    section = compose_config("train", ["sweep=lr"])["sweep"]
    found = overrides_of(["trainer.max_tokens=9000"], Settings(**section))
    assert "trainer.max_steps" in section.params and "trainer.max_steps" not in found
    assert "trainer.eval_every_n_steps" in found


@pytest.mark.parametrize(
    ("experiment", "max_steps", "warmup"),
    [
        ("quickstart", 600, 20),
        ("quickstart_modern", 200, 20),
        ("book_appendix_d", 135, 27),  # 15 epochs of 9 steps
        ("tinystories", 10_000, 1000),
        ("fineweb_edu_gpt2_124m", 18_865, 700),
    ],
)
def test_the_shipped_experiments_have_the_warmups_of_their_sources(experiment, max_steps, warmup):
    config = compose_config("train", [f"experiment={experiment}"])
    assert config["trainer"]["max_steps"] in (max_steps, None)
    assert steps_of(config["scheduler"]["warmup_steps"], max_steps) == warmup
