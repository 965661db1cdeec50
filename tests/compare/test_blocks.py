"""What was measured of runs, cut into blocks of text that can be compared."""

import numpy as np
import pytest

from firstlight.compare.windows import Ground, Measured, block_losses

pytestmark = pytest.mark.cpu


def measured(totals, units):
    ground = Ground("text", "tokenizer", 16)
    return Measured(np.array(totals), np.array(units), len(totals), len(totals), ground)


def test_the_weighted_mean_of_a_runs_blocks_is_its_value_whatever_its_units():
    runs = [measured([6.0, 2.0, 4.0], [3.0, 1.0, 1.0]), measured([1.0, 5.0], [2.0, 2.0])]
    losses, weights = block_losses(runs)
    assert losses.shape == (2, 2) and weights.shape == (2,)
    means = losses @ weights / weights.sum()
    assert means == pytest.approx([run.value for run in runs])


def test_a_block_without_a_token_that_the_metric_counts_says_nothing():
    runs = [measured([3.0, 0.0, 4.0], [1.0, 0.0, 2.0]), measured([2.0, 0.0, 0.0], [1.0, 0.0, 0.0])]
    losses, weights = block_losses(runs)
    assert weights.tolist() == [1.0, 1.0] and np.isfinite(losses).all()
    assert losses @ weights / weights.sum() == pytest.approx([run.value for run in runs])
