"""A comparison as a figure: the curves over each axis, and the configs with their spread."""

from typing import Any

from matplotlib.figure import Figure

AXIS_LABELS = {
    "step": "optimizer steps",
    "tokens": "training tokens",
    "seconds": "seconds of training",
}
MOST_IN_LEGEND = 12
"""Most configs in the legend, and in the panel of means."""


def comparison_figure(found: dict[str, Any]) -> Figure:
    """The curves, in the colour of their config, and the mean of each config with its spread.

    The spread is the standard deviation between seeds.
    """
    axes_names, metric, configs = found["axes"], found["settings"]["metric"], found["configs"]
    # Not pyplot, which keeps figures alive and may open a window.
    figure = Figure(figsize=(4.5 * (len(axes_names) + 1), 4), layout="constrained")
    *curves, means = figure.subplots(1, len(axes_names) + 1, squeeze=False)[0]
    for axes, name in zip(curves, axes_names, strict=True):
        named: set[int] = set()  # a config is in the legend once, however many seeds it has
        for run in found["runs"]:
            config = run["config"]
            label = None
            if config not in named and config < MOST_IN_LEGEND:
                named.add(config)
                label = _escaped(configs[config]["label"])
            x = [point[name] for point in run["curve"]]
            y = [point["value"] for point in run["curve"]]
            axes.plot(x, y, color=_colour(config), label=label, linewidth=1.2)
        axes.set(xlabel=AXIS_LABELS[name], ylabel=metric)
        axes.grid(alpha=0.3)
    if curves:
        curves[0].legend(fontsize=7)
    # The last panel: means with error bars, the best config on top.
    labels = []
    for n, config in enumerate(configs[:MOST_IN_LEGEND]):
        means.errorbar(
            config["mean"], n, xerr=config["spread"] or 0.0, fmt="o", color=_colour(n), capsize=3
        )
        labels.append(_escaped(config["label"]))
    means.set_yticks(range(len(labels)), labels, fontsize=7)
    means.set_xlabel(f"{metric}, mean and spread of the seeds")
    if all(config["could_be_best"] for config in configs):
        means.set_title("none is told to be worse than another", fontsize=9)
    means.invert_yaxis()
    means.grid(alpha=0.3)
    return figure


def _colour(config: int) -> str:
    return f"C{config % 10}"


def _escaped(text: str) -> str:
    """`text` as it is: matplotlib takes what is between two dollar signs for mathematics."""
    return text.replace("$", r"\$")
