"""A ladder as a picture: the parabolas at equal compute, and the loss by compute with its band."""

from math import exp, log

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from firstlight.ladder.climb import Climbed
from firstlight.statistics.rungs import Tuned

POINTS = 40
"""Of a curve."""
PREDICTED, TRAINED = "#f28e2b", "#333333"


def ladder_figure(climbed: Climbed) -> Figure:
    """Loss by size for each budget; and by compute, with the prediction if there is one."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_size, by_compute = figure.subplots(1, 2, sharey=True)
    _isoflops(by_size, climbed)
    _law(by_compute, climbed)
    for axes in (by_size, by_compute):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    by_size.set(xlabel="parameters", ylabel="validation loss (nats a token)")
    by_size.tick_params(axis="x", which="both", labelsize=7)
    by_compute.set(xlabel="training FLOPs")
    budgets = {one.rung.compute for one in climbed.fit.rungs}
    if climbed.prediction is not None:
        budgets.add(climbed.prediction.budget)
    by_compute.set_xticks(sorted(budgets), [f"{budget:.3g}" for budget in sorted(budgets)])
    by_compute.xaxis.set_minor_locator(NullLocator())
    return figure


def _isoflops(axes: Axes, climbed: Climbed) -> None:
    fit = climbed.fit
    for number, compute in enumerate(sorted({one.rung.compute for one in fit.rungs})):
        colour = f"C{number}"
        rungs = [one for one in fit.rungs if one.rung.compute == compute]
        sizes = [one.rung.parameters for one in rungs]
        _points(axes, rungs, sizes, colour, f"{compute:.2g} FLOPs")
        if number >= len(fit.parabolas):
            continue
        parabola = fit.parabolas[number]
        curve = np.geomspace(min(sizes), max(sizes), POINTS)
        axes.plot(curve, np.polyval(parabola.coefficients, np.log(curve)), color=colour)
        if parabola.parameters is not None and min(sizes) < parabola.parameters.mean < max(sizes):
            axes.plot(parabola.parameters.mean, parabola.loss, "*", color=colour, markersize=13)
    _next(axes, climbed, "parameters")


def _law(axes: Axes, climbed: Climbed) -> None:
    fit = climbed.fit
    for number, parabola in enumerate(fit.parabolas):
        label = "minimum of a parabola" if number == 0 else None
        axes.plot(
            parabola.compute, parabola.loss, "*", color=f"C{number}", markersize=13, label=label
        )
    if climbed.prediction is not None and not fit.problems:
        curve = np.geomspace(fit.rungs[0].rung.compute, climbed.prediction.budget, POINTS)
        n_seeds = climbed.prediction.n_seeds
        found = [fit.predict(*_best(climbed, compute), n_seeds) for compute in curve]
        axes.plot(curve, [one.mean for one in found], color="#4c78a8", label="law at the best size")
        axes.fill_between(
            curve,
            [one.low for one in found],
            [one.high for one in found],
            color="#4c78a8",
            alpha=0.2,
            label=f"interval of {fit.confidence:.0%}",
        )
    _next(axes, climbed, "compute")


def _best(climbed: Climbed, compute: float) -> tuple[float, float]:
    """The best size for a budget, and the tokens that it is then trained on."""
    # FLOPs a token lie between those of the sizes; beyond them they grow like the parameters.
    sizes = sorted({(r.size.parameters, r.size.flops_per_token) for r in climbed.rungs})
    best = climbed.fit.best_parameters(compute).mean
    x = [log(parameters) for parameters, _ in sizes]
    y = [log(flops / parameters) for parameters, flops in sizes]
    return best, compute / (best * exp(float(np.interp(log(best), x, y))))


def _next(axes: Axes, climbed: Climbed, by: str) -> None:
    """The prediction as a bar, and what was then trained."""
    prediction, rung = climbed.prediction, climbed.next
    if prediction is None:
        return
    x = prediction.parameters if by == "parameters" else prediction.budget
    loss = prediction.loss
    bar = [[loss.mean - loss.low], [loss.high - loss.mean]]
    axes.errorbar(x, loss.mean, yerr=bar, fmt="s", color=PREDICTED, capsize=4, label="predicted")
    if rung is not None:
        _points(axes, [rung], [x], TRAINED, f"trained afterwards, {prediction.budget:.2g} FLOPs")


def _points(axes: Axes, rungs: list[Tuned], x: list[float], colour: str, label: str) -> None:
    """The mean of each rung, and its seeds as small dots."""
    for place, one in zip(x, rungs, strict=True):
        axes.plot([place] * len(one.losses), one.losses, ".", color=colour, alpha=0.35)
    axes.plot(x, [one.mean for one in rungs], "o", color=colour, markersize=5, label=label)
