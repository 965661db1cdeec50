"""The loss: what every evaluation measures, whatever training lowers."""

from firstlight.metrics.base import Mean, Scored


class CrossEntropyLoss(Mean):
    """The mean of -log p over the targets."""

    name, direction, text = "loss", "min", "cross-entropy of the next token in nats"

    def sums(self, scored: Scored) -> list[float]:
        return [float(scored.losses.sum()), scored.losses.numel()]
