"""Figures that a notebook shows without `%matplotlib inline`, and that no window is opened for."""

import io
from typing import Literal

from matplotlib.figure import Figure

from firstlight.errors import ConfigError
from firstlight.training.callbacks.plots import loss_figure, perplexity_figure


def losses(columns: dict[str, list[float | None]], kind: Literal["loss", "perplexity"]) -> Figure:
    """The curves of a run's evaluations, from its history.

    Raises:
        ConfigError: the run has not been evaluated yet.
    """
    names = ("epoch", "tokens", "train/loss", "val/loss")
    kept: list[list[float]] = [[], [], [], []]
    # A column that was never logged is as long as the others, or zip would raise.
    missing = [None] * len(columns.get("step", []))
    for row in zip(*(columns.get(name, missing) for name in names), strict=True):
        values = [value for value in row if value is not None]
        # Steps that were logged but not evaluated have no validation loss.
        if len(values) == len(names):
            for column, value in zip(kept, values, strict=True):
                column.append(value)
    epochs, tokens, train, val = kept
    if not tokens:
        raise ConfigError("plot: the run has not logged an evaluation yet (logger=csv logs them)")
    if kind == "loss":
        return shown(loss_figure(epochs, tokens, train, val))
    return shown(perplexity_figure(tokens, train, val))


class _Shown(Figure):
    """A figure that a notebook shows as an image."""

    def __repr__(self) -> str:
        width, height = self.get_size_inches() * self.dpi
        return f"Figure({width:.0f} x {height:.0f}; .savefig(FILE) writes it)"

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=100)
        return stream.getvalue()


def shown(figure: Figure) -> Figure:
    """`figure`, which a notebook shows."""
    # IPython looks for _repr_png_ on the class, and the figure is drawn already.
    figure.__class__ = _Shown
    return figure
