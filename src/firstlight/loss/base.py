"""The contract of a loss."""

from abc import ABC, abstractmethod

from torch import Tensor


class Loss(ABC):
    """What training minimises; `loss=NAME` chooses one from conf/loss/.

    A loss is called with the last hidden states and the output matrix instead of the logits. The
    logits are the largest tensor of a step, and a loss may not need all of them at once.
    """

    def begin_step(self, step: int, *, max_steps: int) -> None:  # noqa: B027 - optional
        """Called before the batches of each optimizer step, 0 to `max_steps` - 1, for a loss that
        changes during training.

        A loss is not saved in checkpoints: whatever changes must be a function of `step` and
        `max_steps` alone, so that a resumed run computes the same.
        """

    @abstractmethod
    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        """The loss (N,) of each token in float32, given `hidden` (N, C), `output_weight` (V, C) and
        `targets` (N,).

        The logits are `hidden @ output_weight.T` (N, V). Training averages the losses of all tokens
        of a step.
        """
