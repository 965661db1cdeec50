"""The contract of a loss."""

from abc import ABC, abstractmethod

from torch import Tensor


class Loss(ABC):
    """What training lowers; `loss=NAME` chooses one from conf/loss/.

    It is called with the last hidden states and the matrix that projects them to logits, not with the logits: of all
    tensors of a step they are the largest, and a loss may never need all of them at once.
    """

    @abstractmethod
    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        """The loss of each token (N,), in float32: of `hidden` (N, C), `output_weight` (V, C) and `targets` (N,).

        The logits are `hidden @ output_weight.T` (N, V). Training takes the mean over the tokens of a step.
        """
