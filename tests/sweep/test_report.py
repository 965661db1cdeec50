"""Which point is best: by the mean of its seeds, of whole points only."""

import math

import pytest

from firstlight.sweep import points as of_points
from firstlight.sweep.ledger import Row
from firstlight.sweep.points import PointResult, points, tie
from firstlight.sweep.report import ends


def row(number: int, point: int, state: str, **metrics: float) -> Row:
    return Row(
        number=number,
        state=state,
        point=point,
        seed=number,
        overrides=[f"a={point}"],
        params={"a": point},
        folder=None,
        metrics=(
            {"val/loss": metrics["loss"], "seconds": metrics.get("seconds", 1.0)} if metrics else {}
        ),
        seconds=1.0,
        error=None,
        config=None,
        worker=None,
        is_alive=False,
    )


def best_points(
    rows: list[Row], objectives: list[str], signs: list[int], n_seeds: int
) -> list[PointResult]:
    return of_points.best_points(points(rows, objectives, signs, n_seeds), signs)


def test_the_best_point_has_the_lowest_mean_and_pruned_failed_and_unfinished_ones_are_never_best():
    rows = [
        *(row(0, 0, "done", loss=2.0), row(1, 0, "done", loss=4.0)),
        *(row(2, 1, "done", loss=2.9), row(3, 1, "done", loss=2.9)),
        *(row(4, 2, "pruned", loss=0.1), row(5, 2, "done", loss=0.1)),
        *(row(6, 3, "done", loss=0.2), row(7, 3, "planned")),
        *(row(8, 4, "failed"), row(9, 4, "failed")),
    ]
    [best] = best_points(rows, ["val/loss"], [1], 2)
    assert best.overrides == ["a=1"]
    assert best.means == [2.9] and best.spreads == [0.0]
    assert [point.overrides for point in points(rows, ["val/loss"], [1], 2)][:2] == [
        ["a=1"],
        ["a=0"],
    ]


def test_a_trial_ends_with_its_objectives():
    done = row(0, 0, "done", loss=2.0, seconds=3.0)
    assert ends(done, [done], ["seconds"]) == "trial 0: done in 1 s: seconds 3.0000"
    assert ends(done, [done], ["val/loss", "seconds"]).endswith("val/loss 2.0000, seconds 3.0000")


def test_the_best_of_equal_points_is_said_to_be_the_first_of_them():
    rows = [row(k, k, "done", loss=loss) for k, loss in enumerate((0.5, 0.0, 0.0))]
    ranked = points(rows, ["val/loss"], [1], 1)
    [best] = best_points(rows, ["val/loss"], [1], 1)
    assert best.overrides == ["a=1"]
    assert tie(best, ranked) == " (the first of 2 points that are equal)"
    assert tie(best, [best]) == ""


def test_of_two_objectives_no_point_is_called_the_first_of_those_that_are_equal():
    objectives = ["val/loss", "seconds"]
    rows = [row(k, k, "done", loss=0.5) for k in range(2)]
    front = best_points(rows, objectives, [1, 1], 1)
    # Both are shown: neither stands for the other.
    assert [point.overrides for point in front] == [["a=0"], ["a=1"]]
    assert [tie(point, front) for point in front] == ["", ""]


def test_a_loss_that_is_no_number_is_never_best_wherever_it_stands():
    losses = [3.0, math.nan, 2.0, -math.inf, 2.5]
    for n in range(len(losses)):
        rows = [row(k, k, "done", loss=loss) for k, loss in enumerate(losses[n:] + losses[:n])]
        [best] = best_points(rows, ["val/loss"], [1], 1)
        assert best.means == [2.0]
        assert [point.means[0] for point in points(rows, ["val/loss"], [1], 1)][:3] == [
            2.0,
            2.5,
            3.0,
        ]
    [point] = points(
        [row(0, 0, "done", loss=math.inf), row(1, 0, "done", loss=1.0)], ["val/loss"], [1], 2
    )
    assert not point.is_whole and point.spreads == [None]


def test_of_two_objectives_all_points_are_best_that_no_other_beats_in_both():
    rows = [
        row(0, 0, "done", loss=1.0, seconds=9.0),
        row(1, 1, "done", loss=2.0, seconds=5.0),
        row(2, 2, "done", loss=2.5, seconds=5.0),
        row(3, 3, "done", loss=3.0, seconds=1.0),
    ]
    front = best_points(rows, ["val/loss", "seconds"], [1, 1], 1)
    assert [point.overrides for point in front] == [["a=0"], ["a=1"], ["a=3"]]
    assert front[0].means == pytest.approx([1.0, 9.0])


def test_of_an_objective_to_maximise_the_highest_is_best():
    rows = [
        row(0, 0, "done", loss=1.0, seconds=9.0),
        row(1, 1, "done", loss=2.0, seconds=9.0),
        row(2, 2, "planned"),
    ]
    assert [point.overrides for point in points(rows, ["val/loss"], [-1], 1)] == [
        ["a=1"],
        ["a=0"],
        ["a=2"],
    ]
    assert [
        point.overrides for point in best_points(rows, ["val/loss", "seconds"], [-1, 1], 1)
    ] == [["a=1"]]
