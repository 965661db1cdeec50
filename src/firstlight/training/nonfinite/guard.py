"""The guard against steps that harm: it decides which are made, and when the run ends."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from firstlight.errors import DivergedError
from firstlight.training.nonfinite.description import MOST_SKIPPED
from firstlight.training.nonfinite.late_check import LateCheck, StepRecord
from firstlight.training.spikes.recent import Judged, OnSpike, RecentSteps, judged

OnNan = Literal["stop", "skip"]


class Guard:
    """Skips steps whose loss or gradient is nan or inf, the same ones in all processes.

    With `on_nan="stop"` the first such step is the end, with "skip" the first after `MOST_SKIPPED`
    in a row. Finite steps that lie far above those before them (`RecentSteps`) are given to
    `record_spike`, and with `on_spike="skip"` skipped as well, however many. On a GPU the device
    skips steps by itself, and the host learns of it one step later, without a sync (`LateCheck`).
    `describe` says what was wrong with a step, given the number of steps that were skipped just
    before it. `mean_of_all` returns the mean of each number over all processes.
    """

    def __init__(
        self,
        on_nan: OnNan,
        on_spike: OnSpike,
        *,
        describe: Callable[[StepRecord, int], str],
        record_spike: Callable[[StepRecord, dict[str, Judged]], None],
        mean_of_all: Callable[[Tensor], Tensor],
    ) -> None:
        self.on_nan: OnNan = on_nan
        self.on_spike: OnSpike = on_spike
        self.describe, self.record_spike, self.mean_of_all = describe, record_spike, mean_of_all
        self.recent = RecentSteps()
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
                    mean_of_all=self.mean_of_all,
                    # Only what decides whether a step is made must be known to the device.
                    recent=self.recent.move_to(device) if self.on_spike == "skip" else None,
                )
            self.late_check.judge(record, optimizer)
            return
        # Reading numbers waits for the device; on a GPU `LateCheck` avoids that.
        numbers, grad_norm = record.losses.tolist(), float(record.grad_norm)
        # With a scaler an overflowing gradient is usual, and no reason to count the step.
        if scaler is None:
            numbers.append(grad_norm)
        is_bad = not all(map(math.isfinite, numbers))
        share_of_bad, loss, grad_norm = self.mean_of_all(record.numbers(is_bad)).tolist()
        if share_of_bad == 0:
            self.in_a_row = 0
            if self._is_spike(record, self._judged(record.step, loss, grad_norm)):
                self._skip(optimizer)
            return
        self._judged(record.step, math.nan, math.nan)
        self.in_a_row += 1
        if self.in_a_row > self.most_in_a_row:
            self.skipped += 1
            raise DivergedError(self.describe(record, self.in_a_row - 1))
        self._skip(optimizer)

    def _skip(self, optimizer: Optimizer) -> None:
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)  # without a gradient no weight and no moment changes

    def _judged(self, step: int, loss: float, grad_norm: float) -> Tensor:
        return self.recent.judge(step, torch.tensor([loss, grad_norm], dtype=torch.float64))

    def _is_spike(self, record: StepRecord, rows: Tensor) -> bool:
        """Record a spike; return whether the step of `record` is one that is to be skipped."""
        numbers = judged(rows)
        if not any(number.is_above for number in numbers.values()):
            return False
        self.record_spike(record, numbers)
        return self.on_spike == "skip"

    def settle(self, *, all_but: int = 0) -> None:
        """Read what the device has judged, except the last `all_but` steps.

        Raises:
            DivergedError: one of them was the end; the weights are those before it.
        """
        if self.late_check is None:
            return
        for record, told in self.late_check.read(all_but=all_but):
            self.in_a_row = told.in_a_row
            rows = told.judged
            if rows is None:
                rows = self._judged(record.step, told.loss, told.grad_norm)
            is_skipped = self._is_spike(record, rows) or told.in_a_row > 0
            self.skipped += int(is_skipped)
            if told.has_ended:
                raise DivergedError(self.describe(record, told.in_a_row - 1))
