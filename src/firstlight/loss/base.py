"""The contract of a loss."""

from abc import ABC, abstractmethod

from torch import Tensor

from firstlight.errors import ConfigError


class Loss(ABC):
    """What training minimises; `loss=NAME` selects one from conf/loss/.

    A loss is called with the last hidden states and the output matrix instead of the logits. The
    logits are the largest tensor of a step, and a loss need not hold all of them at once.
    """

    def begin_step(self, step: int, *, max_steps: int) -> None:  # noqa: B027 - optional
        """Prepare for the batches of optimizer step `step`, 0 to `max_steps` - 1.

        Losses that change during training override this. A loss is not saved in checkpoints, so
        what changes must be a function of `step` and `max_steps` alone: a resumed run then computes
        the same.
        """

    def compile(self) -> None:  # noqa: B027 - optional
        """Compile what pays: called once, before training on a GPU with `compile: true`.

        On a CPU the parts of a loss are as fast as they are.
        """

    @abstractmethod
    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each token (N,) in float32.

        Args:
            hidden: the last hidden states (N, C).
            output_weight: the output matrix (V, C): the logits (N, V) are hidden @ output_weight.T.
            targets: the next ids (N,).

        Training averages the losses of all tokens of a step.
        """


def losses_of(loss: Loss, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
    """What `loss` returns, which is averaged over tokens: (N,), one for each.

    Raises:
        ConfigError: it has another shape, such as a mean, which would train all the same.
    """
    losses = loss(hidden, output_weight, targets)
    if not isinstance(losses, Tensor) or losses.shape != targets.shape:
        found = f"a shape of {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"{losses!r}"
        raise ConfigError(
            f"loss: {type(loss).__name__} returns {found} for {len(targets)} targets, it should be"
            f" ({len(targets)},), the loss of each (reduction='none')"
        )
    return losses
