"""Skip non-finite steps on the device; the host learns of it one step later, without a sync.

Reading a number of a step at once would wait until the GPU has computed it; the GPU would then be
idle until the next step is sent.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from firstlight.data.loader import Batch
from firstlight.training.lightning import handles_scaling
from firstlight.training.spikes.recent import RecentSteps

DEVICES = ("cuda",)
"""Types of devices with a queue of their own, where reading a number makes the host wait."""


@dataclass(frozen=True)
class StepRecord:
    """An optimizer step, with all that describes it if it is not finite, or a spike.

    `losses` are those of its batches, `loss` their mean over the tokens of this process, and
    `norms` those of the gradient of each of `parameters`.
    """

    step: int
    batches: list[Batch]
    losses: Tensor
    loss: Tensor
    grad_norm: Tensor
    parameters: list[nn.Parameter]
    norms: Tensor

    def numbers(self, is_bad: Tensor | bool) -> Tensor:
        """What all processes must decide alike by (3,): `is_bad`, the loss and the norm.

        The norm as well: processes on different hardware may compute it with other last digits.
        """
        bad = torch.zeros_like(self.grad_norm) + is_bad
        return torch.stack([bad, self.loss.to(bad.dtype), self.grad_norm])


@dataclass(frozen=True)
class Told:
    """What the device has told of a step."""

    in_a_row: int
    """Steps that were not finite, up to this one."""
    has_ended: bool
    """Whether the run ended there."""
    loss: float
    """The mean of all processes; nan of a step that is not finite, as is the norm."""
    grad_norm: float
    judged: Tensor | None
    """What `RecentSteps.judge` says (4, 2), if the device has asked it."""


class LateCheck:
    """Tells `optimizer`, on its device, which steps to skip; the host reads it later.

    A step whose loss or gradient is not finite leaves weights and moments as they were. After more
    than `most` of them in a row all further steps are skipped: the host, which learns of it later,
    finds the weights of that moment. With `recent` it also skips steps that lie far above the last
    ones. `mean_of_all` returns the mean of each number over all processes. `in_a_row` steps were
    not finite just before.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        most: int,
        in_a_row: int,
        mean_of_all: Callable[[Tensor], Tensor],
        recent: RecentSteps | None = None,
    ) -> None:
        self.device, self.most, self.mean_of_all = device, most, mean_of_all
        self.recent = recent
        self.in_a_row = torch.tensor(in_a_row, device=device)
        self.has_ended = torch.tensor(False, device=device)
        self.unread: deque[tuple[StepRecord, Tensor, torch.cuda.Event | None]] = deque()

    @staticmethod
    def suits(optimizer: Optimizer, device: torch.device) -> bool:
        """Whether the device has its own queue and `optimizer` takes a flag to skip a step."""
        parameters = optimizer.param_groups[0]["params"]
        # A sharded parameter takes no flag that is a plain tensor.
        is_whole = not any(isinstance(parameter, DTensor) for parameter in parameters)
        return device.type in DEVICES and handles_scaling(optimizer) and is_whole

    def judge(self, record: StepRecord, optimizer: Optimizer) -> None:
        """Let `optimizer` skip the step of `record`, which comes next, if it is not finite."""
        is_finite = record.grad_norm.isfinite() & record.losses.isfinite().all()
        share_of_bad, loss, grad_norm = self.mean_of_all(record.numbers(~is_finite)).double()
        is_bad = share_of_bad > 0
        self.in_a_row = (self.in_a_row + 1) * is_bad
        self.has_ended = self.has_ended | (self.in_a_row > self.most)
        numbers = torch.stack([loss, grad_norm])  # (2,)
        numbers = torch.where(is_bad, torch.nan, numbers)
        is_skipped = is_bad | self.has_ended
        parts = [torch.stack([self.in_a_row.double(), self.has_ended.double()]), numbers]
        if self.recent is not None:
            rows = self.recent.judge(record.step, numbers)  # (4, 2)
            is_skipped = is_skipped | rows[0].any()
            parts.append(rows.flatten())
        optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
        is_cuda = self.device.type == "cuda"
        on_device = torch.cat(parts)  # (4,), or (12,)
        # Pinned memory, into which the GPU copies by itself; the event tells when it has.
        told = torch.empty(len(on_device), dtype=torch.float64, pin_memory=is_cuda)
        told.copy_(on_device, non_blocking=True)
        event = torch.cuda.Event() if is_cuda else None
        if event is not None:
            event.record()
        self.unread.append((record, told, event))

    def read(self, *, all_but: int) -> list[tuple[StepRecord, Told]]:
        """The steps not read yet, except the last `all_but`, each with what was told of it."""
        read: list[tuple[StepRecord, Told]] = []
        while len(self.unread) > all_but:
            record, told, event = self.unread.popleft()
            if event is not None:
                event.synchronize()  # returns at once, unless this is the last step
            in_a_row, has_ended, loss, grad_norm, *_ = told.numpy()
            rows = told[4:].view(4, 2) if len(told) > 4 else None
            read.append(
                (record, Told(int(in_a_row), bool(has_ended), float(loss), float(grad_norm), rows))
            )
        return read
