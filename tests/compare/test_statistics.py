"""Verdicts: their error rates are those that are promised, on data of which the truth is known."""

import math

import numpy as np
import pytest

from firstlight.compare.statistics import (
    NothingKnownError,
    ScoreSample,
    TooFewWindowsError,
    difference,
    seeds_needed,
)
from firstlight.compare.student import quantile, two_sided

N_TRIALS, N_WINDOWS = 300, 120


def draw(rng, *, gap, n_seeds, of_seeds, of_text, n_windows=N_WINDOWS):
    """Scores of two configs that are `gap` apart.

    Windows that are hard for one are hard for the other, and neighbours are alike.
    """
    hardness = np.convolve(
        rng.normal(0, 1, n_windows + 2), np.ones(3) / math.sqrt(3), "valid"
    )  # (windows,)
    samples = []
    for mean in (3.0, 3.0 + gap):
        own = np.convolve(rng.normal(0, of_text, n_windows + 2), np.ones(3) / math.sqrt(3), "valid")
        seeds = mean + rng.normal(0, of_seeds, n_seeds)
        nats = seeds[:, None] + hardness + own  # (seeds, windows)
        samples.append(ScoreSample(nats.mean(axis=1), nats.mean(axis=0), np.ones(n_windows)))
    return samples


@pytest.mark.parametrize(
    ("n_seeds", "of_seeds", "of_text"),
    [(3, 0.02, 0.05), (1, 0.0, 0.2), (4, 0.05, 0.0)],
    ids=["both", "text", "seeds"],
)
def test_of_equal_configs_few_are_told_apart_and_of_the_intervals_most_hold_the_truth(
    n_seeds, of_seeds, of_text
):
    rng, settings = (
        np.random.default_rng(0),
        {"paired": True, "confidence": 0.95, "n_pairs": 1, "resamples": 300},
    )
    wrong = told_apart = 0
    for seed in range(N_TRIALS):
        same = draw(rng, gap=0.0, n_seeds=n_seeds, of_seeds=of_seeds, of_text=of_text)
        told_apart += difference(*same, seed=seed, **settings).is_told_apart
        one, other = draw(rng, gap=0.1, n_seeds=n_seeds, of_seeds=of_seeds, of_text=of_text)
        found = difference(one, other, seed=seed, **settings)
        wrong += not found.low <= 0.1 <= found.high
    # 5 % are promised; three standard errors of 300 trials are 3.8 %; and none at all would be far
    # too cautious
    assert 1 <= wrong <= 0.09 * N_TRIALS
    assert 1 <= told_apart <= 0.09 * N_TRIALS


@pytest.mark.parametrize("n_windows", [1, 2, 5, 7, 8, 12, 20, 32])
@pytest.mark.parametrize(("n_seeds", "of_seeds"), [(3, 0.02), (1, 0.0)], ids=["seeds", "one seed"])
def test_of_equal_configs_few_are_told_apart_however_few_the_windows(n_windows, n_seeds, of_seeds):
    """Few windows hide how much the text varies.

    The book's validation has two windows: three seeds are alike on them, and say nothing of another
    text.
    """
    rng, told_apart, n_trials = np.random.default_rng(n_windows), 0, 200
    for seed in range(n_trials):
        same = draw(
            rng, gap=0.0, n_seeds=n_seeds, of_seeds=of_seeds, of_text=0.2, n_windows=n_windows
        )
        try:
            found = difference(
                *same, paired=True, confidence=0.95, n_pairs=1, resamples=200, seed=seed
            )
        except NothingKnownError:
            continue
        told_apart += found.is_told_apart
    assert (
        told_apart <= 0.09 * n_trials
    )  # 5 % are promised, and two and a half standard errors are 3.9 %


@pytest.mark.parametrize("paired", [True, False])
def test_too_few_windows_are_told_and_not_left_out_whatever_the_seeds(paired):
    settings = {"paired": paired, "confidence": 0.95, "n_pairs": 1, "resamples": 100, "seed": 0}
    rng = np.random.default_rng(0)
    few, enough = (
        draw(rng, gap=3.0, n_seeds=4, of_seeds=0.01, of_text=0.01, n_windows=n) for n in (7, 8)
    )
    with pytest.raises(TooFewWindowsError) as caught:
        difference(*few, **settings)
    assert caught.value.n_windows == 7
    assert difference(*enough, **settings).text_error is not None


def test_a_difference_that_is_large_is_told_and_its_interval_is_narrower_where_windows_are_paired():
    one, other = draw(np.random.default_rng(1), gap=0.5, n_seeds=1, of_seeds=0, of_text=0.1)
    paired, apart = (
        difference(one, other, paired=p, confidence=0.95, n_pairs=1, resamples=1000, seed=0)
        for p in (True, False)
    )
    assert paired.is_told_apart and paired.p < 0.001
    assert apart.high - apart.low > 3 * (paired.high - paired.low)
    assert paired.seed_error is None and paired.text_error is not None


def test_what_is_not_told_apart_says_how_many_seeds_would_do():
    none = ScoreSample(np.array([3.0, 3.1, 3.2])), ScoreSample(np.array([3.05, 3.15, 3.25]))
    found = difference(*none, paired=True, confidence=0.95, n_pairs=1, resamples=100, seed=0)
    assert not found.is_told_apart and not found.is_hopeless
    # by the usual formula, 2 (1.96 + 0.84)^2 sigma^2 / gap^2 = 62.7 seeds each
    assert found.more_seeds == pytest.approx(62.7 - 3, abs=3)
    assert seeds_needed(0.01, 0.02, 1.0, 0.05, 3) is None  # the text alone hides it


def test_more_pairs_make_a_verdict_harder():
    one, other = draw(np.random.default_rng(2), gap=0.05, n_seeds=3, of_seeds=0.02, of_text=0.02)
    few, many = (
        difference(one, other, paired=True, confidence=0.95, n_pairs=n, resamples=500, seed=0)
        for n in (1, 45)
    )
    assert many.high - many.low > few.high - few.low
    assert many.p == pytest.approx(min(1, 45 * few.p))


def test_without_windows_and_with_one_seed_each_nothing_is_known():
    with pytest.raises(NothingKnownError):
        difference(
            ScoreSample(np.array([3.0])),
            ScoreSample(np.array([4.0])),
            paired=True,
            confidence=0.95,
            n_pairs=1,
            resamples=9,
            seed=0,
        )


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    [(12.706, 1, 0.05), (2.776, 4, 0.05), (2.0, 60, 0.05003), (4.604, 4, 0.01)],
)
def test_student_is_that_of_the_tables(t, degrees, p):
    assert two_sided(t, degrees) == pytest.approx(p, rel=2e-3)
    assert quantile(1 - p / 2, degrees) == pytest.approx(t, rel=2e-3)
