"""Intervals of one mean, whose truth is known; simulated with fixed seeds.

With few draws the share of intervals that hold the truth varies: LEAST leaves room for that.
"""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from simulated import World, choice, text_coverage

from firstlight.errors import ConfigError
from firstlight.statistics import mean_of_chosen, mean_over_text

pytestmark = pytest.mark.cpu

DRAWS = 150
LEAST = float(stats.binom.ppf(1e-3, DRAWS, 0.95)) / DRAWS


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(World(configs=10, seeds=3), id="equal configs"),
        pytest.param(World(configs=10, seeds=5, shared=0.9, gap=0.03), id="lucky seeds, a gap"),
        pytest.param(World(configs=4, seeds=3, wild=5), id="a wild one, which is often chosen"),
    ],
)
def test_the_interval_of_the_chosen_config_holds_its_mean(world):
    assert choice(world, DRAWS)[0] >= LEAST


def test_the_interval_of_a_config_that_was_not_chosen_would_not():
    corrected, of_one = choice(World(configs=30, seeds=5), DRAWS)
    assert corrected >= LEAST and of_one < 0.9


def test_it_holds_also_for_the_losses_of_a_text_that_it_was_not_chosen_by():
    assert choice(World(configs=10, seeds=3), DRAWS, like_test=0.7)[0] >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize(("configs", "seeds"), list(product((2, 4, 10, 30), (2, 3, 5))))
def test_at_least_93_of_100_intervals_of_chosen_configs_hold_their_means(configs, seeds):
    # With two seeds one that varies more than the others is seldom found.
    for shared, gap, wild in product((0, 0.5, 0.9), (0, 0.03), (1, 5) if seeds > 2 else (1,)):
        world = World(configs, seeds, shared=shared, gap=gap, wild=wild)
        limit = float(stats.binom.ppf(1e-4, 600, 0.93)) / 600
        for like_test in (1.0, 0.5):
            assert choice(world, 600, like_test=like_test)[0] >= limit


@pytest.mark.parametrize(("windows", "neighbours"), [(8, 0.8), (60, 0.8), (256, 0.6)])
def test_the_interval_of_a_mean_over_text_holds_the_mean_of_such_text(windows, neighbours):
    assert text_coverage(windows, neighbours, DRAWS) >= LEAST


def test_the_interval_reaches_further_to_the_side_on_which_luck_is():
    losses = {"a": [1.0, 1.2, 1.1], "b": [1.3, 1.2, 1.4], "c": [1.5, 1.4, 1.6]}
    found = mean_of_chosen(losses, "a")
    assert found.mean == pytest.approx(1.1)
    assert found.high - found.mean > found.mean - found.low > 0
    more = mean_of_chosen(losses, "a", tried=20)
    assert more.high > found.high and more.low == found.low
    both = mean_of_chosen(losses, "a", by_best=False)
    assert both.high == found.high and both.mean - both.low == pytest.approx(
        found.high - found.mean
    )
    accuracies = {name: [-value for value in values] for name, values in losses.items()}
    turned = mean_of_chosen(accuracies, "a", is_loss=False)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_one_config_has_students_interval():
    values = [1.0, 1.2, 1.3]
    found = mean_of_chosen({"a": values}, "a")
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_or_one_window_tells_nothing():
    assert mean_of_chosen({"a": [1.0], "b": [2.0]}, "a") is None
    assert mean_over_text([1.0], [64]) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_of_chosen({"a": [1, 2]}, "b"), "not one of the configs"),
        (lambda: mean_of_chosen({"a": [1, 2], "b": [1]}, "a"), "all as long"),
        (lambda: mean_of_chosen({"a": [1, np.nan]}, "a"), "nan or inf"),
        (lambda: mean_of_chosen({"a": [1, 2]}, "a", confidence=2), "confidence"),
        (lambda: mean_over_text([1, 2], [1]), "tokens make it"),
        (lambda: mean_over_text([1, 2], [1, 0]), "one positive number"),
    ],
)
def test_what_does_not_fit_together_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
