"""What the best point of a sweep is worth, counting that it was chosen."""

import pytest

from firstlight.errors import ConfigError
from firstlight.statistics import mean_of_chosen
from firstlight.sweep.chosen import lines, reported, signs_of, worth_of
from firstlight.sweep.ledger import Row
from firstlight.sweep.points import points

LOSSES = [[2.0, 2.1, 2.05], [2.4, 2.3, 2.35], [2.2, 2.25, 2.3]]


def row(number: int, point: int, seed: int, state: str = "done", **metrics: float) -> Row:
    named = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    return Row(
        number=number, state=state, point=point, seed=seed, overrides=[f"a={point}"], metrics=named
    )


def ranked(*, tested: int = 3, pruned: int = 0):
    rows = []
    for point, losses in enumerate(LOSSES):
        for seed, loss in enumerate(losses):
            test = {"test_loss": loss + 0.1, "test_loss_error": 0.2} if point < tested else {}
            rows.append(row(len(rows), point, seed, val_loss=loss, **test))
    for point in range(3, 3 + pruned):
        rows.append(row(len(rows), point, 0, "pruned", val_loss=9.0))
    return points(rows, ["val/loss"], [1], 3)


def test_the_interval_counts_every_point_that_was_tried():
    found = ranked(pruned=4)
    worth = worth_of("val/loss", found[0], found, ["val/loss"], 1)
    by_point = {str(number): losses for number, losses in enumerate(LOSSES)}
    wanted = mean_of_chosen(by_point, "0", tried=7)
    assert (worth.mean, worth.low, worth.high) == (wanted.mean, wanted.low, wanted.high)
    assert worth.text_error is None


def test_the_test_text_is_told_with_its_own_error():
    found = ranked()
    assert reported(None, found[0], ["val/loss"]) == ["val/loss", "test/loss"]
    worth = worth_of("test/loss", found[0], found, ["val/loss"], 1)
    assert worth.mean == pytest.approx(2.15) and worth.text_error == pytest.approx(0.2)
    of_seeds, of_texts = lines("test/loss", worth, 3, is_objective=False)
    assert of_seeds.startswith("test/loss (test text) 2.1500 +- 0.0500 between seeds: 2.")
    assert of_seeds.endswith(" with other seeds (95%, as the best of 3 points)")
    assert of_texts == "test/loss of other texts: +- 0.2000 from there"


def test_trials_without_a_test_split_are_told_as_such():
    found = ranked(tested=0)
    assert reported(None, found[0], ["val/loss"]) == ["val/loss"]
    with pytest.raises(ConfigError, match="no score of a test split"):
        reported("test/loss", found[0], ["val/loss"])
    with pytest.raises(ConfigError, match="not measured it"):
        reported("val/nonsense", found[0], ["val/loss"])
    some = ranked(tested=1)  # a sweep that a later version has extended
    assert worth_of("test/loss", some[0], some, ["val/loss"], 1) is None
    [line] = lines("test/loss", None, 3, is_objective=False)
    assert (
        line == "test/loss (test text): not known, as trials of other points have not measured it"
    )


def test_one_seed_tells_nothing_of_other_seeds():
    found = points([row(0, 0, 0, val_loss=2.0), row(1, 1, 0, val_loss=3.0)], ["val/loss"], [1], 1)
    worth = worth_of("val/loss", found[0], found, ["val/loss"], 1)
    assert worth.low is None and worth.spread is None
    [line] = lines("val/loss", worth, 2, is_objective=True)
    assert line == (
        "val/loss (validation text), chosen by it: one seed of each point does not tell what luck"
        " has done (seeds=3 does)"
    )


def test_of_a_metric_to_maximise_luck_is_on_the_other_side():
    config = {"metrics": {"t": {"_target_": "firstlight.metrics.top1_accuracy.Top1Accuracy"}}}
    signs = signs_of(["val/loss", "test/top1_accuracy"], ["val/loss"], [1], config)
    assert signs == {"val/loss": 1, "test/top1_accuracy": -1}
    rows = [
        row(3 * point + seed, point, seed, val_top1_accuracy=1 - loss / 5)
        for point, losses in enumerate(LOSSES)
        for seed, loss in enumerate(losses)
    ]
    found = points(rows, ["val/top1_accuracy"], [-1], 3)
    worth = worth_of("val/top1_accuracy", found[0], found, ["val/top1_accuracy"], -1)
    assert worth.mean - worth.low > worth.high - worth.mean
