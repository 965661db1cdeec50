"""The loss that every evaluation measures, whatever loss training minimises."""

from firstlight.metrics.base import Mean, Scored


class CrossEntropyLoss(Mean):
    """The mean of -log p(target)."""

    name, direction, text = "loss", "min", "cross-entropy of the next token in nats"

    def sums(self, scored: Scored) -> list[float]:
        # Not the training loss: z-loss or smoothing would make runs with different settings
        # incomparable.
        return [float(scored.losses.sum()), scored.losses.numel()]
