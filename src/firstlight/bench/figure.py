"""The ladder as a picture."""

from matplotlib.figure import Figure

from firstlight.bench.ladder import OWN_NAME, Rung

PLAIN, BETTER, OWN = "#b8bec7", "#4c78a8", "#f28e2b"


def ladder_figure(rungs: list[Rung], title: str) -> Figure:
    """Tokens a second of each rung that was measured, the first one on top; a line over the range of the rounds."""
    figure = Figure(figsize=(8, 1.3 + 0.5 * len(rungs)), layout="constrained")
    axes = figure.subplots()
    first = rungs[0].rate
    names = [_name(rung, is_first=rung is rungs[0]) for rung in rungs]
    rates, places = [rung.rate for rung in rungs], list(range(len(rungs)))
    ranges = [[rung.rate - min(rung.rates) for rung in rungs], [max(rung.rates) - rung.rate for rung in rungs]]
    colours = [OWN if rung.is_config else PLAIN if i == 0 else BETTER for i, rung in enumerate(rungs)]
    axes.barh(places, rates, height=0.62, color=colours)
    if any(map(any, ranges)):
        axes.errorbar(rates, places, xerr=ranges, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    for place, rung in zip(places, rungs, strict=True):
        axes.annotate(
            f"{rung.rate:,.0f}" + (f"   {rung.rate / first:.2f} x" if place else ""),
            (max(rung.rates), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            bbox={"boxstyle": "square,pad=0.1", "color": "white"},  # over the grid
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.22 * max(max(rung.rates) for rung in rungs))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("training tokens a second")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def _name(rung: Rung, *, is_first: bool) -> str:
    if rung.name == OWN_NAME:
        return rung.name
    return ("" if is_first else "+ ") + rung.name + (f"\n({OWN_NAME})" if rung.is_config else "")
