"""The growth of what layers put out, as a picture."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from firstlight.coord_check.growth import Growth


def growth_figure(of_moves: list[Growth], of_sizes: list[Growth]) -> Figure:
    """What steps have moved, above, and sizes, below, by width: a column a parametrization."""
    names = list(dict.fromkeys(growth.parametrization for growth in of_moves))
    figure = Figure(figsize=(4.5 * len(names), 7), layout="constrained")
    rows = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    quantities = {"moved since the first step": of_moves, "size": of_sizes}
    for axes, (quantity, found) in zip(rows, quantities.items(), strict=True):
        for place, name in zip(axes, names, strict=True):
            _draw(place, [growth for growth in found if growth.parametrization == name])
            place.set_title(name)
        axes[0].set_ylabel(f"{quantity}, mean |x|")
    for place in rows[-1]:
        place.set_xlabel("width")
    return figure


def _draw(axes: Axes, found: list[Growth]) -> None:
    for growth in found:
        label = f"{growth.layer}: width^{growth.exponent:+.2f}"
        axes.plot(growth.widths, growth.values, marker="o", markersize=3, label=label)
    widths = found[0].widths
    axes.set(xscale="log", yscale="log", xticks=widths, xticklabels=[str(w) for w in widths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc=(0.03, 0.2))
