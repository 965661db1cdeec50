"""All mistakes of a command line at once, as far as they can be judged together."""

from pathlib import Path

import pytest

import firstlight
from firstlight.cli import VERBS, main
from firstlight.errors import ConfigError
from firstlight.verbs import command

OLD_RUN = Path(__file__).parent / "old_runs" / "v14-gpt"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(capsys, place):
    """The mistakes of a command line, in order, without the text after the first colon."""

    def run(line):
        assert main(line.split()) == 2
        out, err = capsys.readouterr()
        assert out == "" and list(place.iterdir()) == []
        lines = err.splitlines()
        assert all(line.startswith("firstlight: ") for line in lines)
        return [line.removeprefix("firstlight: ").partition(": ")[0] for line in lines]

    return run


@pytest.mark.parametrize(
    ("line", "mistakes"),
    [
        # A word, a choice, a key and two values; what depends on the choice is not judged.
        (
            "train foo data=nope data.path=3 optimizer.lrr=1 seed=x model.n_layers=2.5",
            [
                "'foo' is not a setting",
                "data=nope",
                "optimizer.lrr",
                "seed",
                "model.n_layers",
            ],
        ),
        # What Hydra's grammar refuses, several values without -m, two lengths, an added key.
        (
            "train model=[a optimizer.lr=1,2 trainer.max_epochs=2 trainer.max_steps=3 +foo=1",
            [
                "model=[a",
                "optimizer.lr=1,2",
                "trainer.max_epochs=2 and trainer.max_steps=3",
                "foo",
            ],
        ),
        # An experiment decides everything: no key can be judged without it.
        (
            "train experiment=nope model.depth=4 optimizer.lr=x tokenizer=nope",
            ["experiment=nope", "tokenizer=nope"],
        ),
        ("train callbacks=[default,nope,nix] callbacks.nope.x=1", ["callbacks=nix", "callbacks=nope"]),
        (
            "train -m model=nanoo,gpt3 optimizer.lrr=1,2 seed=-3",
            ["model=nanoo", "model=gpt3", "optimizer.lrr", "seed"],
        ),
        ("plan cluster=nope plan.steps=-1 seed=x", ["cluster=nope", "seed", "plan.steps"]),
        ("train data=text optimizer.lr=-1", ["data.path", "optimizer.lr"]),
        ("train hydra.run.dir=x modl=1", ["hydra.run.dir=x", "modl"]),
        # Groups whose choice follows from others, and may be missing.
        ("train rules=nope schedule_rules=nix", ["rules=nope", "schedule_rules=nix"]),
        ("ladder ladder.bugets=3 seeds=1", ["ladder.bugets", "seeds"]),
    ],
)  # fmt: skip
@pytest.mark.one_in(3)
def test_every_mistake_is_a_line(told, line, mistakes):
    found = told(line)
    assert sorted(found) == sorted(mistakes)
    # What is wrong with words comes before what is wrong with their values.
    assert found[0] == mistakes[0]


def test_a_choice_that_does_not_exist_makes_no_mistake_of_the_keys_of_another(told):
    assert told("train model=dail model.depth=4") == ["model=dail"]


def test_what_a_resumed_run_may_not_change_is_told_at_once(capsys):
    words = [f"resume={OLD_RUN}", "data.batch_size=7", "foo=1", "trainer.max_steps=-1"]
    assert main(["train", *words]) == 2
    keys = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert keys == ["data.batch_size", "foo", "trainer.max_steps"]


def test_the_api_raises_one_exception_with_a_line_for_each():
    with pytest.raises(ConfigError) as caught:
        firstlight.compose("foo", "modl=1", optimizer={"lr": -1}, data={"batch_size": 1.5})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "'foo' is not a setting",
        "modl",
        "data.batch_size",
        "optimizer.lr",
    ]


def test_every_verb_has_arguments_to_judge():
    for verb in VERBS:
        assert callable(command(verb).arguments), verb
