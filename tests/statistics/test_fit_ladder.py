"""A ladder's fit, of losses whose law is known: what it predicts, and when it refuses to."""

import re
from dataclasses import replace

import numpy as np
import pytest
from simulated_ladder import ALPHA, BETA, RATES, E, World, outcome

from firstlight.errors import ConfigError
from firstlight.statistics import Rung, fit_ladder

pytestmark = pytest.mark.cpu

EXACT = World(of_seed=1e-4, steep=0.5)


def rungs_of(world, seed=0):
    return world.rungs(np.random.default_rng(seed))


def fit_of(world, seed=0, resamples=20):
    return fit_ladder(rungs_of(world, seed), resamples=resamples)


@pytest.fixture(scope="module")
def fitted():
    return fit_of(World(), resamples=60)


def flat(rung, to=0.0):
    """The rung without what its rates differ in, at the best rate's loss plus `to`."""
    losses = np.asarray(rung.losses)
    return replace(rung, losses=losses - losses.mean(axis=1, keepdims=True) + 3.0 + to)


def test_of_losses_without_noise_the_law_is_found():
    world = EXACT
    # Rates at the best one alone: else the law would be that of the rates as well.
    rungs = []
    for rung in rungs_of(world):
        loss = world.loss(rung.parameters, rung.tokens)
        rungs.append(replace(rung, losses=loss * np.array([[1.1, 1.1], [1.0, 1.0], [1.1, 1.1]])))
    fit = fit_ladder(rungs, resamples=10)
    assert fit.problems == [] and fit.law is not None
    assert fit.law.E.mean == pytest.approx(E, rel=1e-3)
    assert (fit.law.alpha.mean, fit.law.beta.mean) == pytest.approx((ALPHA, BETA), rel=1e-2)
    parameters, tokens = 3e8, 6e9
    found = fit.predict(parameters, tokens, 2)
    assert found.mean == pytest.approx(world.loss(parameters, tokens), rel=1e-4)


def test_the_same_losses_give_the_same_intervals(fitted):
    again = fit_ladder(rungs_of(World()), resamples=60)
    assert again.predict(1e8, 1e9, 3) == fitted.predict(1e8, 1e9, 3)
    assert again.exponent == fitted.exponent and again.law == fitted.law


def test_the_best_sizes_are_near_the_truth(fitted):
    world = World()
    for parabola in fitted.parabolas:
        size = parabola.parameters
        assert size.low < size.mean < size.high
        assert abs(np.log(size.mean / world.best(parabola.compute))) < 0.5
    # The exponent of a parabola's minimum is that of the law, but for what is not parabolic.
    assert fitted.exponent.mean == pytest.approx(BETA / (ALPHA + BETA), abs=0.1)


def test_an_interval_is_wider_further_up_for_fewer_seeds_and_for_more_confidence(fitted):
    def width(found):
        return found.high - found.low

    near, far = fitted.predict(1e8, 3e9, 3), fitted.predict(3e10, 1e12, 3)
    assert width(far) > width(near)
    assert width(fitted.predict(1e8, 3e9, 1)) > width(near)
    sure = fit_ladder(rungs_of(World()), 0.99, resamples=60)
    assert width(sure.predict(1e8, 3e9, 3)) > width(near)


def test_what_the_rungs_are_off_the_law_counts():
    off = fit_of(World(of_rung=0.01, spread=8), resamples=10)
    assert off.draws.of_rung > 3 * fit_of(World(spread=8), resamples=10).draws.of_rung


@pytest.mark.parametrize(("shift", "end"), [(0.1, "largest"), (12.0, "smallest")])
def test_without_a_minimum_between_the_sizes_nothing_is_predicted(shift, end):
    fit = fit_of(replace(EXACT, shift=shift))
    assert [problem.kind for problem in fit.problems] == ["minimum"] * 3
    assert f"that of the {end} model" in fit.problems[0].text and "1e+17" in fit.problems[0].text
    for ask in (lambda: fit.predict(1e8, 1e9, 3), lambda: fit.best_parameters(1e20)):
        with pytest.raises(ConfigError, match=f"nothing can be predicted: .*{end}"):
            ask()


def test_a_minimum_that_is_chance_is_none():
    # All losses are equal but for the seeds: now and then the lowest is not at an end.
    kinds = set()
    for seed in range(4):
        world = World(of_seed=0.02, sizes=4)
        fit = fit_ladder([flat(rung) for rung in rungs_of(world, seed)], resamples=30)
        told = [problem for problem in fit.problems if problem.kind == "minimum"]
        assert told
        kinds |= {"resamples" in problem.text for problem in told}
    assert kinds == {True, False}


def test_a_best_rate_at_the_edge_is_refused_with_its_figure():
    rungs = rungs_of(EXACT)
    rising = np.array([1.0, 1.2, 1.4])[:, None] * np.asarray(rungs[3].losses)[1].min()
    rungs[3] = replace(rungs[3], losses=np.broadcast_to(rising, (3, 3)))
    [problem] = [one for one in fit_ladder(rungs, resamples=10).problems if one.kind == "rates"]
    assert f"{RATES[0]:g}, is the lowest of 3" in problem.text


@pytest.mark.parametrize(
    ("world", "kind", "text"),
    [
        (World(budgets=2), "budgets", "2 budgets of at least 3"),
        (World(sizes=3), "sizes", "3 sizes of at least 4 at 1e+17 FLOPs"),
        (World(seeds=1), "seeds", "1 seed of at least 2"),
    ],
)
def test_too_few_of_something_is_refused_and_nothing_is_fitted(world, kind, text):
    fit = fit_of(world)
    assert (fit.problems[0].kind, fit.law, fit.parabolas) == (kind, None, [])
    assert text in fit.problems[0].text
    with pytest.raises(ConfigError, match=f"nothing can be predicted: {re.escape(text)}"):
        fit.predict(1e8, 1e9, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": [[3.0, 3.1]]}, "losses must be"),
        ({"losses": [3.0, 3.1, 3.2]}, "losses must be"),
        ({"losses": [[3.0], [float("nan")], [3.0]]}, "nan or inf"),
        ({"losses": [[3.0], [-1.0], [3.0]]}, "above 0"),
        ({"rates": (1e-3, 1e-3, 2e-3)}, "rates rise"),
        ({"tokens": 0.0}, "above 0"),
        ({"parameters": "many"}, "not an array of numbers"),
    ],
)
def test_what_is_no_rung_is_refused(change, message):
    rung = Rung(1e17, 1e6, 1e9, RATES, [[3.0], [2.9], [3.0]])
    with pytest.raises(ConfigError, match=message):
        fit_ladder([replace(rung, **change)])
    with pytest.raises(ConfigError, match="none"):
        fit_ladder([])


def test_no_interval_comes_from_a_single_resample():
    with pytest.raises(ConfigError, match=r"resamples \(1\) must be at least 2"):
        fit_of(World(), resamples=1)


@pytest.mark.long
def test_the_prediction_holds():
    found = outcome(World(), draws=20, resamples=60)
    assert found.predicts == 1.0 and found.loss_holds >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("of_rung", [0.0, 0.004])
def test_of_100_predictions_at_least_91_hold(seeds, of_rung):
    found = outcome(World(seeds=seeds, of_rung=of_rung, spread=6), draws=200, resamples=200)
    assert found.predicts >= 0.9 and found.loss_holds >= 0.91
    assert found.width < 0.1  # it is no interval that says nothing
