"""A comparison as a figure: the curves over each axis there is, and the configs with their errors."""

from typing import Any

from matplotlib.figure import Figure

AXIS_LABELS = {"step": "optimizer steps", "tokens": "training tokens", "seconds": "seconds of training"}
MOST_NAMED = 12
"""Configs in the legend."""


def figure_of(found: dict[str, Any]) -> Figure:
    """Curves in the colours of their configs, and of each config its mean, with the spread between seeds."""
    axes_of, metric, configs = found["axes"], found["settings"]["metric"], found["configs"]
    figure = Figure(figsize=(4.5 * (len(axes_of) + 1), 4), layout="constrained")
    *curves, last = figure.subplots(1, len(axes_of) + 1, squeeze=False)[0]
    colours = [f"C{n % 10}" for n in range(len(configs))]
    for axes, name in zip(curves, axes_of, strict=True):
        named: set[int] = set()
        for run in found["runs"]:
            n = run["config"]
            label = _plain(configs[n]["label"]) if n not in named and n < MOST_NAMED else None
            named.add(n)
            points = [(point[name], point["value"]) for point in run["curve"]]
            axes.plot(*zip(*points, strict=True), color=colours[n], label=label, linewidth=1.2)
        axes.set(xlabel=AXIS_LABELS[name], ylabel=metric)
        axes.grid(alpha=0.3)
    if curves:
        curves[0].legend(fontsize=7)
    shown = configs[:MOST_NAMED]
    for n, config in enumerate(shown):
        last.errorbar(config["mean"], n, xerr=config["spread"] or 0.0, fmt="o", color=colours[n], capsize=3)
    last.set(yticks=range(len(shown)), xlabel=f"{metric}, mean and spread of the seeds")
    if found["windows"]["are_too_few"]:
        last.set_title(f"too few validation windows to tell: {found['windows']['measured']}", fontsize=9)
    last.set_yticklabels([_plain(config["label"]) for config in shown], fontsize=7)
    last.invert_yaxis()
    last.grid(alpha=0.3)
    return figure


def _plain(text: str) -> str:
    """`text` as it is: between two dollar signs matplotlib reads mathematics."""
    return text.replace("$", r"\$")
