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

DEVICES = ("cuda",)
"""Types of devices with a queue of their own, where reading a number makes the host wait."""


@dataclass(frozen=True)
class StepRecord:
    """An optimizer step, with all that describes it if it is not finite.

    `losses` are those of its batches, `norms` those of the gradient of each of `parameters`.
    """

    step: int
    batches: list[Batch]
    losses: Tensor
    grad_norm: Tensor
    parameters: list[nn.Parameter]
    norms: Tensor


class LateCheck:
    """Tells `optimizer`, on its device, which steps to skip; the host reads it later.

    A step whose loss or gradient is not finite leaves weights and moments as they were. After more
    than `most` of them in a row all further steps are skipped: the host, which learns of it later,
    finds the weights of that moment. `largest_of_all` returns the largest of the numbers of all
    processes. `in_a_row` steps were not finite just before.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        most: int,
        in_a_row: int,
        largest_of_all: Callable[[Tensor], Tensor],
    ) -> None:
        self.device, self.most, self.largest_of_all = device, most, largest_of_all
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
        is_bad = self.largest_of_all(1 - is_finite.to(self.in_a_row.dtype))
        self.in_a_row = (self.in_a_row + 1) * is_bad
        self.has_ended = self.has_ended | (self.in_a_row > self.most)
        optimizer.found_inf = ((is_bad > 0) | self.has_ended).float()  # type: ignore[attr-defined]
        is_cuda = self.device.type == "cuda"
        # Pinned memory, into which the GPU copies by itself; the event tells when it has.
        told = torch.empty(2, dtype=self.in_a_row.dtype, pin_memory=is_cuda)
        told.copy_(torch.stack([self.in_a_row, self.has_ended.to(told.dtype)]), non_blocking=True)
        event = torch.cuda.Event() if is_cuda else None
        if event is not None:
            event.record()
        self.unread.append((record, told, event))

    def read(self, *, all_but: int) -> list[tuple[StepRecord, int, bool]]:
        """The steps not read yet, except the last `all_but`.

        Each with the number of non-finite steps in a row up to it, and whether the run
        ended there.
        """
        read = []
        while len(self.unread) > all_but:
            record, told, event = self.unread.popleft()
            if event is not None:
                event.synchronize()  # returns at once, unless this is the last step
            in_a_row, has_ended = told.numpy()
            read.append((record, int(in_a_row), bool(has_ended)))
        return read
