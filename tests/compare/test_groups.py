"""What the compared runs differ in, by the names that they were chosen with."""

from pathlib import Path
from typing import Any

import pytest

from firstlight.compare.groups import group_runs
from firstlight.compare.runs import Run
from firstlight.runs.chosen import chosen_names


def run(words: list[str], **model: Any) -> Run:
    config = {"seed": 1, "name": "x", "model": {"_target_": "firstlight.model.gpt.GPT", **model}}
    return Run(Path("run"), " ".join(words), config, [], {}, {}, words)


@pytest.mark.parametrize(
    ("runs", "settings"),
    [
        # Sizes that change together are one dimension.
        ([run(["model=s1"], n=1, d=1), run(["model=s2", "seed=1"], n=2, d=8)],
         [{"model": "s1"}, {"model": "s2"}]),
        ([run(["model=s1", "model=s2"], n=2), run(["+model=s3"], n=3)],
         [{"model": "s2"}, {"model": "s3"}]),
        # A key that the command line gives is no part of the name.
        ([run(["model=s1"], n=1, d=1), run(["model=s2", "model.d=7"], n=2, d=7)],
         [{"model": "s1", "model.d": "1"}, {"model": "s2", "model.d": "7"}]),
        # A choice whose file has changed since does not say what differs.
        ([run(["model=s1"], n=1), run(["model=s1"], n=2), run(["model=s2"], n=3)],
         [{"model.n": "1"}, {"model.n": "2"}, {"model.n": "3"}]),
        # The default has no name here.
        ([run([], n=1), run(["model=s2"], n=2)], [{"model.n": "1"}, {"model.n": "2"}]),
        # A group with keys in several sections.
        ([run(["experiment=a"], n=1, d=1), run(["experiment=b"], n=2, d=8)],
         [{"experiment": "a"}, {"experiment": "b"}]),
        # Another section's choice explains nothing of this one.
        ([run(["seed=1", "name=x"], n=1), run(["seed=1", "name=y"], n=2)],
         [{"model.n": "1"}, {"model.n": "2"}]),
    ],
)  # fmt: skip
def test_choices_of_a_group_are_one_key_with_their_names(runs, settings):
    groups, _ = group_runs(runs)
    assert [group.settings for group in groups] == settings


def test_names_are_those_of_groups_only():
    config = {"seed": 1, "name": "a", "model": {}, "logger": {}}
    words = ["model=nano", "seed=3", "logger=[csv]", "model.n_heads=2", "~callbacks", "name=b"]
    assert chosen_names(config, [*words, "experiment=book"]) == {
        "model": "nano", "experiment": "book"
    }  # fmt: skip


def dial(depth: int, lr: float, *words: str) -> Run:
    """A run whose config has what the rules made of its depth."""
    config = {
        "seed": 1,
        "model": {"_target_": "firstlight.model.dialed.DialedGPT", "depth": depth},
        "data": {"batch_size": 4 * depth, "path": f"{depth}.txt"},
        "optimizer": {"lr": lr},
        "scheduler": {"min_lr": lr / 10},
    }
    all_words = ["model=dial", f"model.depth={depth}", *words]
    return Run(Path("run"), str(depth), config, [], {}, {}, all_words)


def test_what_rules_make_of_a_given_key_is_not_shown_beside_it():
    groups, notes = group_runs([dial(2, 2e-3), dial(4, 1e-3)])
    # A text of its own is no rule's.
    assert [group.settings for group in groups] == [
        {"model.depth": "2", "data.path": "2.txt"},
        {"model.depth": "4", "data.path": "4.txt"},
    ]
    assert notes == [
        "differing as well, by the rules of the model: data.batch_size, optimizer.lr,"
        " scheduler.min_lr"
    ]


def test_what_was_given_or_follows_from_other_rules_is_shown():
    groups, _ = group_runs([dial(2, 2e-3), dial(4, 5e-3, "optimizer.lr=5e-3")])
    assert [group.settings["optimizer.lr"] for group in groups] == ["0.002", "0.005"]
    # The same depth with another rate: the rules of another version.
    groups, _ = group_runs([dial(2, 2e-3), dial(2, 1e-3)])
    assert [group.settings["optimizer.lr"] for group in groups] == ["0.002", "0.001"]


@pytest.mark.parametrize(("warmup", "n_configs"), [(20, 1), (21, 2)])
def test_a_warmup_in_steps_and_the_same_one_as_a_share_are_one_config(warmup, n_configs):
    def warmed(seed: int, part: int | str) -> Run:
        config = {"seed": seed, "scheduler": {"warmup_steps": part}, "trainer": {"max_steps": 600}}
        return Run(Path("run"), str(seed), config, [], {}, {})

    groups, _ = group_runs([warmed(1, warmup), warmed(2, "3.4%")])
    assert len(groups) == n_configs


def test_a_run_of_an_earlier_version_lacks_keys_that_are_null_today():
    earlier, today, other = (run([], n=1) for _ in range(3))
    today.config.update(seed=2, freeze=None, lr_scale=None, parametrization=None, on_spike="record")
    other.config.update(parametrization={"_target_": "firstlight.optim.mup.MuP", "base_width": 8})
    groups, _ = group_runs([earlier, today, other])
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[1].settings == {"parametrization": "MuP", "parametrization.base_width": "8"}
