"""Top-k accuracy: how often the next token is among the k most probable ones."""

from pydantic import PositiveInt

from firstlight.metrics.base import Mean, Scored


class TopKAccuracy(Mean):
    """The share of targets that were among the model's `k` most probable ids.

    Its name has the number in it, such as `top5_accuracy`, so that several can be measured.
    """

    direction = "max"

    def __init__(self, *, k: PositiveInt = 5) -> None:
        self.k = k
        self.name = f"top{k}_accuracy"
        self.text = f"share of tokens that were among the {k} most probable ones"

    def sums(self, scored: Scored) -> list[float]:
        return [float((scored.ranks <= self.k).sum()), scored.targets.numel()]
