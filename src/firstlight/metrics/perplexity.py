"""Perplexity: the number of equally probable ids that would be as hard to predict."""

import math

from firstlight.metrics.base import Metric, Scored


def perplexity(loss: float) -> float:
    """Return exp(loss), for a mean loss in nats per token; inf where a float overflows."""
    # math.exp raises an OverflowError above 709.78.
    return math.exp(loss) if loss < 709 else math.inf


def perplexity_text(loss: float) -> str:
    """The perplexity of a mean loss in nats per token, for people: 2,093.7 or 5.34e+20."""
    value = perplexity(loss)
    # A model whose first weights are too large begins at 1e20 and more: digits without meaning,
    # which would push the other columns of a table to the right.
    return f"{value:,.1f}" if value < 1e7 else f"{value:.3g}"


class Perplexity(Metric):
    """exp of the loss."""

    name, direction, text = "perplexity", "min", "exp of the loss"

    def sums(self, scored: Scored) -> list[float]:
        return [float(scored.losses.sum()), scored.losses.numel()]

    def value(self, sums: list[float]) -> float | None:
        # exp of the mean over all tokens; the mean of each batch's perplexity would be larger.
        nats, n_tokens = sums
        return perplexity(nats / n_tokens) if n_tokens else None
