"""Top-1 accuracy: how often the most probable token is the next one."""

from firstlight.metrics.base import Mean, Scored


class Top1Accuracy(Mean):
    """The share of targets that were the model's most probable id."""

    name, direction, text = (
        "top1_accuracy",
        "max",
        "share of tokens that were the most probable one",
    )

    def sums(self, scored: Scored) -> list[float]:
        return [float((scored.predictions == scored.targets).sum()), scored.targets.numel()]
