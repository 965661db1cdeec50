"""What a user wants to know of a step whose loss or gradient is nan or inf."""

import math
from collections.abc import Callable

from torch import Tensor

from firstlight.data.loader import Batch
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import shorten

MOST_SKIPPED = 10
"""The most steps in a row that `on_nan=skip` skips; then the run is stopped after all."""
MOST_SHOWN = 3
"""Windows that are shown."""


def describe(
    *,
    step: int,
    losses: list[float],
    grad_norm: float,
    gradient: tuple[str, float],
    windows: list[str],
    skipped: int,
) -> str:
    """Describe what went wrong in `step`: losses, gradients and the windows to blame."""
    wrong = "gradient" if all(map(math.isfinite, losses)) else "loss"
    before = f", and {skipped} steps before it were skipped" if skipped else ""
    return "\n".join(
        (
            (
                f"the {wrong} of step {step} is not finite (loss"
                f" {', '.join(f'{loss:.4g}' for loss in losses)}, gradient norm {grad_norm:.4g}):"
                f" its update was not made{before}"
            ),
            f"the largest gradient is that of {gradient[0]} (norm {gradient[1]:.4g})",
            *windows,
            (
                "a lower optimizer.lr may help; on_nan=skip skips such steps, at most"
                f" {MOST_SKIPPED} in a row"
            ),
        )
    )


def largest(norms: dict[str, float]) -> tuple[str, float]:
    """The parameter with the largest gradient norm, and the norm; nan counts as the largest."""
    name = max(norms, key=lambda name: math.inf if math.isnan(norms[name]) else norms[name])
    return name, norms[name]


def worst_windows(
    batches: list[Batch], token_losses: Callable[[Batch], Tensor], tokenizer: Tokenizer
) -> list[str]:
    """The windows of `batches` whose loss is not finite, or the one with the largest loss.

    Loss and text are a line each.

    `token_losses` gives the losses (B * T,) of a batch.
    """
    found: list[tuple[float, str]] = []
    for inputs, targets in batches:
        # Evaluated again, without dropout: the losses of the step are means over whole batches.
        losses = token_losses((inputs, targets)).view(targets.shape).float().mean(dim=1)  # (B,)
        texts = (shorten(repr(tokenizer.decode(ids)), 100) for ids in inputs.tolist())
        found += zip(losses.tolist(), texts, strict=True)
    bad = [window for window in found if not math.isfinite(window[0])]
    if not bad:
        loss, text = max(found)
        return [
            f"no window's loss is out of range without dropout; the largest is {loss:.4g}: {text}"
        ]
    return [f"a window with loss {loss:.4g}: {text}" for loss, text in bad[:MOST_SHOWN]]
