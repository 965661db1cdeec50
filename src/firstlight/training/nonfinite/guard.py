"""The guard against non-finite steps: it decides which are made, and when the run ends."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from firstlight.errors import DivergedError
from firstlight.training.nonfinite.description import MOST_SKIPPED
from firstlight.training.nonfinite.late_check import LateCheck, StepRecord

OnNan = Literal["stop", "skip"]


class Guard:
    """Skips steps whose loss or gradient is nan or inf, the same ones in all processes.

    With `on_nan="stop"` the first such step is the end, with "skip" the first after `MOST_SKIPPED`
    in a row. On a GPU the device skips steps by itself, and the host learns of it one step later,
    without a sync (`LateCheck`). `describe` says what was wrong with a step, given the number of
    steps that were skipped just before it. `largest_of_all` returns the largest of the numbers of
    all processes.
    """

    def __init__(
        self,
        on_nan: OnNan,
        *,
        describe: Callable[[StepRecord, int], str],
        largest_of_all: Callable[[Tensor], Tensor],
    ) -> None:
        self.on_nan: OnNan = on_nan
        self.describe, self.largest_of_all = describe, largest_of_all
        self.skipped, self.in_a_row = 0, 0
        """Skipped steps: in all, and since the last one that was made."""
        self.late_check: LateCheck | None = None

    def state(self) -> list[int]:
        """What a checkpoint keeps."""
        return [self.skipped, self.in_a_row]

    def load(self, state: list[int]) -> None:
        """Restore what a checkpoint kept."""
        self.skipped, self.in_a_row = state

    @property
    def most_in_a_row(self) -> int:
        """Steps in a row that may be skipped."""
        return 0 if self.on_nan == "stop" else MOST_SKIPPED

    def judge(
        self, record: StepRecord, optimizer: Optimizer, scaler: Any, device: torch.device
    ) -> None:
        """Let `optimizer` skip the step of `record`, which comes next, if it is not finite.

        A `scaler` (of 16-bit mixed precision) skips gradients that overflow itself, and then lowers
        its scale.

        Raises:
            DivergedError: that was one too many; the weights are those before the step.
        """
        if scaler is None and LateCheck.suits(optimizer, device):
            if self.late_check is None:
                self.late_check = LateCheck(
                    device,
                    most=self.most_in_a_row,
                    in_a_row=self.in_a_row,
                    largest_of_all=self.largest_of_all,
                )
            self.late_check.judge(record, optimizer)
            return
        # Reading numbers waits for the device; on a GPU `LateCheck` avoids that.
        numbers = record.losses.tolist()
        # With a scaler an overflowing gradient is usual, and no reason to count the step.
        if scaler is None:
            numbers.append(float(record.grad_norm))
        is_bad = not all(map(math.isfinite, numbers))
        if not int(self.largest_of_all(torch.tensor(int(is_bad), device=device))):
            self.in_a_row = 0
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row > self.most_in_a_row:
            raise DivergedError(self.describe(record, self.in_a_row - 1))
        optimizer.zero_grad(set_to_none=True)  # without a gradient no weight and no moment changes

    def settle(self, *, all_but: int = 0) -> None:
        """Read what the device has judged, except the last `all_but` steps.

        Raises:
            DivergedError: one of them was the end; the weights are those before it.
        """
        if self.late_check is None:
            return
        for record, in_a_row, has_ended in self.late_check.read(all_but=all_but):
            self.in_a_row = in_a_row
            self.skipped += int(in_a_row > 0)
            if has_ended:
                raise DivergedError(self.describe(record, in_a_row - 1))
