"""The ladder as a picture."""

from matplotlib.figure import Figure

from firstlight.bench.ladder import OWN_NAME, Rung

PLAIN_COLOUR, BETTER_COLOUR, OWN_COLOUR = "#b8bec7", "#4c78a8", "#f28e2b"


def ladder_figure(rungs: list[Rung], title: str) -> Figure:
    """A bar of tokens per second for each measured rung, with the range of its rounds."""
    figure = Figure(figsize=(8, 1.3 + 0.5 * len(rungs)), layout="constrained")
    axes = figure.subplots()
    first = rungs[0]
    names = []
    for place, rung in enumerate(rungs):
        if rung is first:
            name, colour, label = rung.name, PLAIN_COLOUR, f"{rung.rate:,.0f}"
        else:
            name, colour = f"+ {rung.name}", BETTER_COLOUR
            label = f"{rung.rate:,.0f}   {rung.rate / first.rate:.2f} x"
        if rung.is_config:
            name, colour = f"{name}\n({OWN_NAME})", OWN_COLOUR
        if rung.name == OWN_NAME:  # it is not built on the rung before
            name = OWN_NAME
        names.append(name)
        # A bar up to the median, a line from the slowest round to the fastest.
        fastest = max(rung.rates)
        axes.barh(place, rung.rate, height=0.62, color=colour)
        if rung.spread:
            ends = [[rung.rate - min(rung.rates)], [fastest - rung.rate]]
            axes.errorbar(
                rung.rate, place, xerr=ends, fmt="none", ecolor="#333333", elinewidth=1, capsize=2
            )
        axes.annotate(
            label,
            (fastest, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            bbox={"boxstyle": "square,pad=0.1", "color": "white"},  # hides the grid behind the text
        )
    axes.set_yticks(range(len(rungs)), names)
    axes.invert_yaxis()  # the first rung on top
    axes.set_xlim(0, 1.22 * max(max(rung.rates) for rung in rungs))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("training tokens per second")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure
