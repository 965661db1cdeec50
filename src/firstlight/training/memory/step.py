"""The memory of a step by its parts, from shapes alone: nothing is computed, and nothing allocated.

Two passes and two updates go through torch with tensors that have a shape, a dtype and a device,
but no memory. What they would hold is counted as it comes and goes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from firstlight.loss.base import Loss, losses_of
from firstlight.model.base import LanguageModel
from firstlight.model.construction import without_weights
from firstlight.optim.base import OptimizerFactory
from firstlight.training.activation_checkpointing import checkpoint_activations
from firstlight.training.lightning import shapes_only
from firstlight.training.memory.estimate import DTYPES
from firstlight.training.memory.held import Held

Found = TypeVar("Found")


@dataclass(frozen=True)
class StepMemory:
    """Bytes of the tensors of a step, by part. The largest number at once is `peak`."""

    weights: int
    gradients: int
    optimizer: int
    """What the optimizer keeps from step to step."""
    activations: int
    """What the forward pass of a part of a batch keeps for its backward pass."""
    of_pass: int
    """What is held beside weights and the optimizer's state when a pass holds most: activations,
    the gradients that are there by then, results on the way."""
    of_update: int
    """The same of the update, with all gradients."""

    @property
    def peak(self) -> int:
        return self.weights + self.optimizer + max(self.of_pass, self.of_update)

    @property
    def parts(self) -> dict[str, int]:
        """What is held at the peak, by part."""
        if self.of_update > self.of_pass:
            gradients, activations = self.gradients, 0
        else:
            gradients = min(self.gradients, self.of_pass - self.activations)
            activations = self.activations
        largest = max(self.of_pass, self.of_update)
        return {
            "weights": self.weights,
            "gradients": gradients,
            "optimizer": self.optimizer,
            "activations": activations,
            "working": largest - gradients - activations,
        }


def step_memory(
    make_model: Callable[[], LanguageModel],
    loss: Loss,
    make_optimizer: OptimizerFactory,
    *,
    precision: str,
    context_length: int,
    n_windows: int,
    n_parts: int = 1,
    activation_checkpointing: bool = False,
) -> StepMemory | None:
    """The memory of a step on the CPU, in parts of `n_windows`; None if it cannot be told.

    It cannot of a model, loss or optimizer that looks at numbers, which are not there.
    """

    def of_step(trace: _Trace) -> StepMemory:
        return trace.of_step(make_optimizer, n_windows, context_length, n_parts)

    return _traced(make_model, loss, precision, of_step, activation_checkpointing)


def pass_memory(
    make_model: Callable[[], LanguageModel],
    loss: Loss,
    *,
    precision: str,
    context_length: int,
    n_windows: Sequence[int],
    activation_checkpointing: bool = False,
) -> list[int] | None:
    """What a pass of each number of windows takes beside weights and gradients, which are there.

    In bytes; None if it cannot be told (see `step_memory`).
    """

    def of_passes(trace: _Trace) -> list[int]:
        return trace.of_passes(n_windows, context_length)

    return _traced(make_model, loss, precision, of_passes, activation_checkpointing)


def _traced(
    make_model: Callable[[], LanguageModel],
    loss: Loss,
    precision: str,
    ask: Callable[["_Trace"], Found],
    activation_checkpointing: bool,
) -> Found | None:
    """What `ask` finds out from the model without memory; None if something looks at numbers."""
    try:
        model = without_weights(make_model).train()
        with shapes_only(), Held() as held:
            _give_shapes(model, DTYPES.get(precision, torch.float32))
            if activation_checkpointing:
                checkpoint_activations(model)
            return ask(_Trace(model, loss, held, precision))
    except Exception:  # whatever is raised where the value of a number is asked for
        return None


class _Trace:
    """Passes and updates of a model without memory, and what they hold on the way."""

    def __init__(self, model: LanguageModel, loss: Loss, held: Held, precision: str) -> None:
        self.model, self.loss, self.held, self.precision = model, loss, held, precision
        self.weights = _bytes_of(list(model.parameters()))

    def of_step(
        self, make_optimizer: OptimizerFactory, n_windows: int, length: int, n_parts: int
    ) -> StepMemory:
        inputs = torch.zeros(n_windows, length, dtype=torch.int64)  # (B, T)
        before = self.held.now
        kept = 0
        # Of a step in several parts the second meets the gradients of the first.
        for _ in range(min(n_parts, 2)):
            self.held.most = self.held.now
            mean = self._forward(inputs)
            kept = self.held.now - before
            mean.backward()
            del mean
        gradients = _bytes_of([p.grad for p in self.model.parameters() if p.grad is not None])
        # The last pass met the gradients of the first, which have a line of their own.
        kept -= gradients if n_parts > 1 else 0
        of_pass = self.held.most - before
        optimizer = make_optimizer(self.model)
        _without_kernels(optimizer)
        optimizer.step()
        # The first update makes the state. The second, which finds it there, is one as a run has.
        state = self.held.now - before - gradients
        self.held.most = self.held.now
        optimizer.step()
        of_update = self.held.most - before - state
        return StepMemory(self.weights, gradients, state, kept, of_pass, of_update)

    def of_passes(self, n_windows: Sequence[int], length: int) -> list[int]:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        found: list[int] = []
        for n in n_windows:
            inputs = torch.zeros(n, length, dtype=torch.int64)  # (B, T)
            before = self.held.most = self.held.now
            self._forward(inputs).backward()
            found.append(self.held.most - before)
        return found

    def _forward(self, inputs: Tensor) -> Tensor:
        with self._autocast():
            hidden, auxiliary = self.model.hidden_and_auxiliary_loss(inputs)  # (B, T, C)
            losses = losses_of(
                self.loss, hidden.flatten(0, 1), self.model.output_weight, inputs.flatten()
            )
            return losses.mean() if auxiliary is None else losses.mean() + auxiliary

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.precision.startswith("16") else torch.bfloat16
        # The tensors without memory are on the CPU, whatever the device of the run.
        return torch.autocast("cpu", dtype, enabled=self.precision.endswith("-mixed"))


def _give_shapes(model: LanguageModel, dtype: torch.dtype) -> None:
    """Replace each parameter by one on the CPU; one that has two names stays one."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            if old not in made:
                new = torch.empty(old.shape, dtype=dtype, device="cpu")
                made[old] = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(module, name, made[old])


def _bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _without_kernels(optimizer: torch.optim.Optimizer) -> None:
    """Fused kernels work in place: what the others hold on the way is not theirs."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            group["fused"] = False
