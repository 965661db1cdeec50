"""Verdicts on configs whose truth is known; simulated with fixed seeds.

A share of errors is estimated from few draws here: the limits leave room for that. With many draws
benchmarks/verdicts.py prints the table of docs/statistics.md.
"""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from simulated import World, outcome

import firstlight
from firstlight.errors import ConfigError
from firstlight.statistics import compare
from firstlight.statistics.critical import all_pairs, to_the_best
from firstlight.statistics.design import design
from firstlight.statistics.text import frequencies, variances_of_means

pytestmark = pytest.mark.cpu

DRAWS = 150
LIMIT = float(stats.binom.isf(1e-3, DRAWS, 0.05)) / DRAWS
"""More errors than this, of a rate of 5 %, occur once in a thousand simulations."""

BOOK = World(windows=2, of_seed=0.01, of_text=0.1, of_both=0)


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(BOOK, id="two windows: was wrong in 83 of 100"),
        pytest.param(World(windows=8, neighbours=0.8, of_seed=0.01, of_text=0.1), id="8 windows"),
        pytest.param(World(windows=34, neighbours=0.8, of_text=0.1), id="alike neighbours"),
        pytest.param(World(configs=4, windows=34, shared=0.9), id="lucky seeds"),
        pytest.param(World(configs=10, of_text=0), id="ten configs, seeds alone"),
        pytest.param(World(configs=4, seeds=5, fewer=(2, 3, 5)), id="unequal seeds"),
        pytest.param(World(seeds=5, fewer=(2, 5), same_seeds=False), id="other seeds"),
        pytest.param(World(gap=0.05, shared=0.5), id="a gap"),
    ],
)
def test_equal_configs_are_seldom_told_apart(world):
    found = outcome(world, DRAWS)
    assert found.family_error <= LIMIT
    assert 1 - found.best_is_named <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configs", "windows", "seeds"), list(product((2, 4, 10), (2, 8, 34, 256), (2, 3, 5)))
)
def test_the_family_error_is_at_most_six_in_a_hundred(configs, windows, seeds):
    draws = 600 if configs < 10 else 200
    for shared, neighbours in product((0, 0.5, 0.9), (0.6, 0.8)):
        world = World(configs, seeds, windows, neighbours, shared, of_seed=0.01, of_text=0.05)
        limit = float(stats.binom.isf(1e-4, draws, 0.06)) / draws
        assert outcome(world, draws).family_error <= limit
        uneven = World(configs, 5, windows, neighbours, shared, fewer=(seeds, 5), of_text=0.05)
        assert outcome(uneven, draws).family_error <= limit


def test_one_config_in_ten_is_found_to_be_better():
    """Ten configs of three seeds, three standard deviations apart: today's .03 was Welch's."""
    ten = World(configs=10, of_text=0, of_both=0.01, gap=0.09)
    assert outcome(ten, 100).power >= 0.5
    assert outcome(replace(ten, shared=0.9), 20).power >= 0.9


@pytest.mark.long
def test_a_wild_config_counts_by_its_own_variance():
    """Not by the common one alone, in which it would be a tenth."""
    wild = World(configs=10, of_text=0, of_both=0, wild=5, windows=2)
    assert outcome(wild, DRAWS).family_error < 0.17


@pytest.mark.long
def test_intervals_hold_the_truth_as_often_as_they_say():
    for world in (World(of_text=0, of_both=0), World(seeds=5, windows=256, gap=0.1)):
        found = outcome(world, DRAWS)
        assert 0.9 <= found.coverage <= 0.995


def test_equal_configs_have_no_difference_that_means_anything():
    losses = np.array([[3.0, 3.2, 3.1], [3.1, 3.2, 3.3]])
    [pair] = compare({"a": losses, "b": losses}, [1, 1, 1], {"a": [0, 1], "b": [0, 1]}).pairs
    assert pair.difference == 0 and not pair.told_apart


def test_a_difference_is_the_first_less_the_second_weighted_by_tokens():
    losses = {"a": [[1.0, 4.0]] * 2, "b": [[2.0, 2.0]] * 2}
    found = compare(losses, [3, 1], {"a": [0, 1], "b": [0, 1]})
    assert found.means == {"a": 1.75, "b": 2.0}
    assert found.pairs[0].difference == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("seeds", "reason", "told"),
    [
        ({"a": [0], "b": [0]}, "lower on this text; another seed may reverse it", False),
        ({"a": [0, 1, 2], "b": [0, 1, 2]}, "more than chance", True),
    ],
)
def test_never_worse_from_one_seed_each(seeds, reason, told):
    generator = np.random.default_rng(0)
    losses = {}
    for name, mean in (("a", 2.0), ("b", 3.0)):
        losses[name] = generator.normal(mean, 0.01, (len(seeds[name]), 60))
    found = compare(losses, np.ones(60), seeds)
    [pair] = found.pairs
    assert (pair.told_apart, pair.reason) == (told, reason)
    assert found.could_be_best == (["a"] if told else ["a", "b"])
    assert np.isfinite(pair.low) == told


def test_means_alone_speak_of_their_text_alone():
    losses, seeds = {"a": [2.0, 2.1, 1.9], "b": [3.0, 3.1, 3.2]}, {"a": [0, 1, 2], "b": [3, 4, 5]}
    [pair] = compare(losses, None, seeds).pairs
    assert pair.told_apart and pair.reason.endswith("other texts are unknown")
    welch = stats.ttest_ind(losses["a"], losses["b"], equal_var=False).confidence_interval()
    assert (pair.low, pair.high) == pytest.approx((welch.low, welch.high), rel=1e-6)


def test_the_advised_number_of_seeds_is_enough_four_times_in_five():
    world = World(of_text=0, of_both=0, seeds=4, gap=0.02)
    losses, seeds = world.losses(np.random.default_rng(3))
    [pair] = compare(losses, np.ones(34), seeds, advise_on="0").pairs
    assert pair.more_seeds is not None and not pair.told_apart
    spread = pair.seed_error / (2 / 4) ** 0.5
    enough = World(of_text=0, of_both=0, seeds=4 + pair.more_seeds, of_seed=spread)
    assert outcome(replace(enough, gap=-pair.difference), 100).power > 0.7
    few = World(windows=4, of_text=1, of_seed=0.01, gap=0.01)
    losses, seeds = few.losses(np.random.default_rng(0))
    [pair] = compare(losses, np.ones(4), seeds, advise_on="0").pairs
    assert pair.more_seeds is None


@pytest.mark.parametrize("windows", [1, 2])
def test_too_little_text_is_said(windows):
    generator = np.random.default_rng(0)
    own = generator.normal(0, 0.1, (2, 1, windows))
    losses = own + generator.normal(0, 0.001, (2, 3, 1))
    [pair] = compare(
        dict(zip("ab", losses, strict=True)), np.ones(windows), {"a": [0, 1, 2], "b": [0, 1, 2]}
    ).pairs
    assert not pair.told_apart and pair.reason == "cannot be told: too little text"


def test_the_variance_of_a_mean_is_that_of_alike_neighbours():
    """Unbiased where neighbours are correlated by 0.8, for which it is made; else too large."""
    generator = np.random.default_rng(0)
    for windows in (8, 34, 256):
        for neighbours, bounds in ((0.8, (0.9, 1.1)), (0.0, (1.0, 4.0))):
            world = World(windows=windows, neighbours=neighbours)
            series = world.series(generator, 1.0, (4000,))
            estimated = variances_of_means(series, np.full(windows, 1 / windows)).mean()
            assert bounds[0] < estimated / series.mean(axis=1).var() < bounds[1]
    assert len(frequencies(256).cosines) == 13


def test_critical_values_are_those_of_the_tables():
    """Tukey's q(0.05; 10, 20) = 5.008 and Dunnett's one-sided d(0.05; 2, 5) = 2.44."""
    assert all_pairs(10, 20, 0.05) * 2**0.5 == pytest.approx(5.008, abs=1e-3)
    assert all_pairs(2, 7.5, 0.05) == pytest.approx(stats.t.isf(0.025, 7.5))
    assert to_the_best(3, 5, 0.05) == pytest.approx(2.44, abs=1e-3)
    assert to_the_best(3, 5.04, 0.05) == to_the_best(3, 5, 0.05)


@pytest.mark.parametrize(
    ("seeds", "has_blocks", "degrees"),
    [
        ([[0, 1, 2], [0, 1, 2]], True, 2),
        ([[0, 1, 2], [3, 4, 5]], False, 4),
        ([[0, 1, 2], [2, 3, 4]], False, 4),  # only one seed of three is shared
        ([[0, 1, 2], [0, 1, 2], [0, 1]], True, 3),
        ([[0], [0]], False, 0),
        ([[0, 1], [0, 1], [5, 6]], False, 3),
    ],
)
def test_seeds_that_are_shared_are_blocks(seeds, has_blocks, degrees):
    plan = design(seeds)
    assert (plan.has_blocks, plan.degrees) == (has_blocks, degrees)
    runs = len(plan.config_of)
    truth = np.arange(len(seeds), dtype=float)
    effects = plan.to_effects @ truth[plan.config_of]
    assert np.allclose(np.diff(effects), 1) and plan.to_residuals.shape == (runs, runs)


def test_the_examples_of_the_page_show_what_it_says(capsys):
    text = Path(__file__).parents[2].joinpath("docs", "statistics.md").read_text(encoding="utf-8")
    first, second, third = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    names: dict[str, object] = {}  # the others use what the first has made
    exec(first, names)
    told, best = capsys.readouterr().out.splitlines()
    assert told.startswith("small large 0.1") and told.endswith("True more than chance")
    assert best == "['large']"
    exec(second, names)
    of_text, of_chosen = capsys.readouterr().out.splitlines()
    assert of_text.startswith("Interval(mean=2.99") and of_chosen.startswith("Interval(mean=2.")
    exec(third, names)
    fit, prediction = capsys.readouterr().out.splitlines()
    assert fit.startswith("[] Interval(mean=0.5") and prediction.startswith("Interval(mean=")


GOOD = {"a": [[1.0, 2.0]], "b": [[1.0, 2.0]]}


@pytest.mark.parametrize(
    ("losses", "tokens", "seeds", "confidence", "message"),
    [
        ({"a": [[1.0]]}, [1], {"a": [0]}, 0.95, "comparing takes two"),
        (GOOD, [1, 1], {"a": [0], "b": [0]}, 1.0, "confidence"),
        (GOOD, [1, 0], {"a": [0], "b": [0]}, 0.95, "tokens: one positive number"),
        (GOOD, [1], {"a": [0], "b": [0]}, 0.95, r"make it \(1, 1\)"),
        (GOOD, [1, 1], {"a": [0, 1], "b": [0]}, 0.95, r"make it \(2, 2\)"),
        (GOOD, [1, 1], {"a": [0]}, 0.95, r"name different configs \(b\)"),
        ({"a": [[1, "x"]], "b": [[1, 2]]}, [1, 1], {"a": [0], "b": [0]}, 0.95, "losses of a: not"),
        ({"a": [[1, np.nan]], "b": [[1, 2]]}, [1, 1], {"a": [0], "b": [0]}, 0.95, "nan or inf"),
        ({"a": [[1, 2]] * 2, "b": [[1, 2]]}, [1, 1], {"a": [3, 3], "b": [0]}, 0.95, "named twice"),
    ],
)
def test_what_does_not_fit_together_is_one_line(losses, tokens, seeds, confidence, message):
    with pytest.raises(ConfigError, match=message) as caught:
        firstlight.statistics.compare(losses, tokens, seeds, confidence)
    assert "\n" not in str(caught.value)
