"""The curve of a range test as a picture."""

from matplotlib.figure import Figure

from firstlight.lr_find.curve import Curve


def curve_figure(curve: Curve, configured: float | None) -> Figure:
    """The loss over the learning rate, with the suggestion and the rate of the config, if known."""
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="#b8bec7", linewidth=1, label="loss of each step")
    axes.plot(curve.rates, curve.smoothed, color="#4c78a8", label="smoothed")
    lines = {"falls fastest": curve.steepest, "a tenth of the lowest": curve.tenth_of_lowest}
    for (name, rate), colour in zip(lines.items(), ("#f28e2b", "#59a14f"), strict=True):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.1e}")
    if configured is not None and curve.rates[0] <= configured <= curve.rates[-1]:
        label = f"optimizer.lr: {configured:.1e}"
        axes.axvline(configured, color="#333333", linestyle=":", label=label)
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (nats a token)")
    # The end of a test that diverges would flatten all that comes before.
    low, high = min(curve.smoothed), curve.smoothed[0]
    axes.set_ylim(low - 0.1 * (high - low) - 0.05, high + 0.3 * (high - low) + 0.05)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure
