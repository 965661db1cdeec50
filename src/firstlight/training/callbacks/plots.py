"""The figures of the book: losses over epochs and tokens, and perplexity over tokens."""

from typing import Any

from matplotlib.figure import Figure

from firstlight.files import replacing
from firstlight.metrics.perplexity import perplexity
from firstlight.training.callbacks.base import Watcher
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer


class Plots(Watcher):
    """Draws `loss.png` and `perplexity.png` at the end of training; boards show them, too."""

    def __init__(self) -> None:
        self.points: list[list[float]] = []
        """Epochs, tokens, training loss and validation loss of each evaluation."""

    def state_dict(self) -> dict[str, Any]:
        # Kept in checkpoints: the figures of a resumed run begin where the run began.
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = state_dict["points"]

    def on_validation_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        losses = [pl_module.metrics["train/loss"], pl_module.metrics["val/loss"]]
        self.points.append([trainer.epochs_seen, trainer.tokens_seen, *losses])

    def on_train_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        if not trainer.is_global_zero:
            return
        epochs, tokens, train, val = (list(column) for column in zip(*self.points, strict=True))
        data = pl_module.data
        passes = (
            data.passes_after(data.batches_per_epoch) if data.stride < data.context_length else None
        )
        figures = {
            "loss": loss_figure(epochs, tokens, train, val, passes_per_epoch=passes),
            "perplexity": perplexity_figure(tokens, train, val),
        }
        for name, figure in figures.items():
            # Through a temporary file: a viewer never sees half of a picture.
            with replacing(trainer.folder / f"{name}.png", "wb") as file:
                figure.savefig(file, dpi=150, format="png")
            trainer.log_figure(name, figure)


def loss_figure(
    epochs: list[float],
    tokens: list[float],
    train: list[float],
    val: list[float],
    *,
    passes_per_epoch: float | None = None,
) -> Figure:
    """Training and validation loss over epochs; the upper axis counts the tokens seen.

    Where windows overlap an epoch is several passes over the text, and the lower axis says how
    many.
    """
    overlapping = (
        f" of windows (each {passes_per_epoch:.1f} passes over the text)"
        if passes_per_epoch
        else ""
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, train, label="training")
    axes.plot(epochs, val, linestyle="-.", label="validation")
    axes.set(xlabel=f"epochs{overlapping}", ylabel="loss (nats a token)")
    axes.legend()
    axes.grid(alpha=0.3)
    upper = axes.twiny()
    upper.plot(tokens, train, alpha=0)  # invisible: it only aligns the second axis
    upper.set_xlabel("tokens seen")
    upper.ticklabel_format(style="sci", axis="x", scilimits=(-3, 4))
    return figure


def perplexity_figure(tokens: list[float], train: list[float], val: list[float]) -> Figure:
    """Training and validation perplexity over the tokens seen, on a logarithmic axis."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(tokens, [perplexity(loss) for loss in train], label="training")
    axes.plot(tokens, [perplexity(loss) for loss in val], linestyle="-.", label="validation")
    axes.set(xlabel="tokens seen", ylabel="perplexity", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    return figure
