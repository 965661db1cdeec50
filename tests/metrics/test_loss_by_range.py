"""The loss by position and by count, against plain sums."""

import pytest
import torch

from firstlight.cli import main
from firstlight.metrics.base import Scored
from firstlight.metrics.loss_by_count import LossByCount
from firstlight.metrics.loss_by_position import LossByPosition
from firstlight.metrics.measured import measured, sums_of, values_of

LOSSES = torch.arange(1.0, 17.0, dtype=torch.float64)  # two windows of 8
COUNTS = torch.tensor([0, 0, 1, 9, 10, 99, 100, 5] * 2)


def scored(counts: torch.Tensor | None = COUNTS) -> Scored:
    zeros = torch.zeros(16, dtype=torch.int64)
    return Scored(LOSSES, zeros, zeros, 8, lambda: zeros, lambda: zeros, counts)


def values(group, *parts: Scored) -> dict[str, float]:
    metrics = measured({"group": group})
    totals = torch.tensor([sums_of(metrics, part) for part in parts], dtype=torch.float64).sum(0)
    return values_of(metrics, totals.tolist())


def test_each_target_counts_in_the_range_of_its_position():
    found = values(LossByPosition(bounds=[1, 4, 64]), scored())
    windows = LOSSES.view(2, 8)
    assert found == {
        "loss": float(LOSSES.mean()),
        "loss_at_position_1": float(windows[:, 0].mean()),
        "loss_at_position_2_to_4": float(windows[:, 1:4].mean()),
        "loss_at_position_5_to_64": float(windows[:, 4:].mean()),
    }


def test_a_part_of_a_window_keeps_its_positions():
    group = LossByPosition(bounds=[1, 4, 64])
    parts = [part for window in scored().windows() for part in window.split(3)]
    assert len(parts) == 6 and values(group, *parts) == values(group, scored())


def test_each_target_counts_in_the_range_of_its_count():
    found = values(LossByCount(bounds=[0, 9, 99]), scored())
    del found["loss"]
    assert found == {
        "loss_at_count_0": float(LOSSES[COUNTS == 0].mean()),
        "loss_at_count_1_to_9": float(LOSSES[(COUNTS > 0) & (COUNTS < 10)].mean()),
        "loss_at_count_10_to_99": float(LOSSES[(COUNTS > 9) & (COUNTS < 100)].mean()),
        "loss_at_count_from_100": float(LOSSES[COUNTS == 100].mean()),
    }


def test_what_was_not_counted_is_not_measured():
    assert list(values(LossByCount(bounds=[0, 9]), scored(None))) == ["loss"]


@pytest.mark.parametrize("bounds", ["[4,1]", "[0,4]", "[2,2]"])
def test_bounds_that_do_not_rise_are_refused(bounds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["metrics=[default,loss_by_position]", f"metrics.loss_by_position.bounds={bounds}"]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("firstlight: metrics.loss_by_position: bounds (")
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
