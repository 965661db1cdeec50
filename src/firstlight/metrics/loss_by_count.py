"""The loss by how often a token was trained on: what is rare, and costs most of the loss."""

from torch import Tensor

from firstlight.metrics.base import Scored
from firstlight.metrics.parts import Bounds, LossByRange, LossOfRange


class _LossAtCounts(LossOfRange):
    needs_counts = True

    def numbers(self, scored: Scored) -> Tensor | None:
        return scored.times_trained


class LossByCount(LossByRange):
    """The loss of the targets in each range of counts: how often a run has trained on that id.

    Counted are the targets of all training batches up to the evaluation. Raises as `LossByRange`.
    """

    kind, number, first = _LossAtCounts, "count", 0

    def __init__(self, *, bounds: Bounds) -> None:
        super().__init__(bounds=bounds)
