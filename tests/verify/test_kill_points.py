"""Where a process is killed: drawn from a seed, all over its life."""

from collections import Counter
from pathlib import Path

import pytest

from firstlight.verify.kill_points import KillPoints
from firstlight.verify.process import Life, change_kind
from firstlight.verify.run_state import RunState, phase

CHANGES = [
    (0.1, "folder"),
    (1.0, "row"),
    (1.1, "sample"),
    *((1.2 + n / 10, "checkpoint") for n in range(20)),
    (3.5, "end"),
]
WHOLE = Life(0, 4.0, CHANGES, Path("log"))


def draws(n: int, seed: int = 0, share: float = 1.0, continues: bool = False):
    points = KillPoints(WHOLE, seed)
    return [points.draw(share=share, continues=continues) for _ in range(n)]


def test_the_same_seed_draws_the_same_points():
    assert draws(20) == draws(20) != draws(20, seed=1)


def test_half_of_the_points_are_even_over_the_seconds_and_half_follow_every_kind_of_change():
    points = draws(2000)
    seconds = [point.seconds for point in points if point.kind is None]
    assert 900 < len(seconds) < 1100
    assert 0 <= min(seconds) < 0.1 and 3.9 < max(seconds) <= 4.0
    assert 0.4 < sum(s > 2 for s in seconds) / len(seconds) < 0.6
    kinds = Counter(point.kind for point in points if point.kind is not None)
    assert (
        kinds.keys() == {"folder", "row", "sample", "checkpoint", "end"}
        and min(kinds.values()) > 120
    )
    assert {point.count for point in points if point.kind == "checkpoint"} == set(range(1, 21))


def test_the_rest_of_a_run_is_killed_within_the_rest_of_its_life():
    points = draws(500, share=0.1, continues=True)
    assert max(p.seconds for p in points if p.kind is None) <= 1.0 + 0.3 + 1e-9
    assert {point.count for point in points if point.kind == "checkpoint"} == {1, 2}


def test_how_long_a_continued_run_needs_to_begin_is_learned():
    points = KillPoints(WHOLE, 0)
    points.learn(Life(None, 9.0, [(8.0, "row")], Path("log")), continues=True)
    points.learn(
        Life(None, 0.5, [(0.1, "folder")], Path("log")), continues=True
    )  # it did not come to a row
    assert 8.0 < max(points.draw(share=0.5, continues=True).seconds for _ in range(200)) <= 9.5
    assert max(points.draw(share=0.5, continues=False).seconds for _ in range(200)) <= 2.5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".hydra/config.yaml", "folder"),
        ("environment.json", "folder"),
        (".firstlight_probe_x/file", "folder"),
        ("metrics.csv", "row"),
        ("metrics.tmp", "row"),
        ("samples.txt", "sample"),
        ("checkpoints/.step_00000003.tmp/model.safetensors", "checkpoint"),
        ("model.safetensors", "end"),
        ("loss.png", "end"),
    ],
)
def test_a_changed_file_says_what_a_run_is_doing(name, kind):
    assert change_kind(name) == kind


@pytest.mark.parametrize(
    ("state", "has_begun", "expected"),
    [
        (RunState(exists=False), False, "start-up"),
        (RunState(exists=True, row=7, sample=4, checkpoint=6), False, "start-up"),
        (RunState(exists=True, row=5, sample=4, checkpoint=4), True, "step"),
        (RunState(exists=True, row=7, sample=4, checkpoint=6), True, "step or evaluation"),
        (RunState(exists=True, row=8, sample=4, checkpoint=6), True, "sampling"),
        (RunState(exists=True, row=8, sample=8, checkpoint=6), True, "saving"),
        (RunState(exists=True, row=6, sample=4, checkpoint=4), True, "saving"),
        (RunState(exists=True, row=6, sample=4, checkpoint=6, is_saving=True), True, "saving"),
        (RunState(exists=True, row=12, sample=12, checkpoint=12), True, "end"),
    ],
)
def test_the_files_tell_in_which_phase_a_run_was_killed(state, has_begun, expected):
    evaluated, saved = {0, 4, 8, 12}, {2, 4, 6, 8, 10, 12}
    assert phase(state, has_begun=has_begun, steps=12, evaluated=evaluated, saved=saved) == expected
