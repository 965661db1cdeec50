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
