"""The loss by position in the window: how much a model gains from context (Kaplan et al. 2020)."""

from torch import Tensor

from firstlight.metrics.base import Scored
from firstlight.metrics.parts import Bounds, LossByRange, LossOfRange


class _LossAtPositions(LossOfRange):
    def numbers(self, scored: Scored) -> Tensor:
        return scored.positions


class LossByPosition(LossByRange):
    """The loss of the targets in each range of positions; the first of a window has position 1.

    Position p is predicted from p tokens. Raises as `LossByRange`.
    """

    kind, number, first = _LossAtPositions, "position", 1

    def __init__(self, *, bounds: Bounds) -> None:
        super().__init__(bounds=bounds)
