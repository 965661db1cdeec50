"""Perplexity: between how many ids, equally probable, the model would be as undecided."""

import math

from firstlight.metrics.base import Metric, Scored


def perplexity(loss: float) -> float:
    """exp of a mean negative log-likelihood in nats a token; inf where that is beyond a float."""
    return math.exp(loss) if loss < 709 else math.inf


class Perplexity(Metric):
    """exp of the loss."""

    name, direction, text = "perplexity", "min", "exp of the loss"

    def sums(self, scored: Scored) -> list[float]:
        return [float(scored.losses.sum()), scored.losses.numel()]

    def value(self, sums: list[float]) -> float | None:
        nats, n_tokens = sums
        return perplexity(nats / n_tokens) if n_tokens else None
