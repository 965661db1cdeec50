"""The loss and the gradient norm of the last steps, and whether a step lies far above them."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

OnSpike = Literal["record", "skip"]

LAST, SIGMAS = 128, 6.0
"""As in the SkipStepOptimizer of OLMo-core (Ai2, 2024)."""
LEAST = LAST // 2
"""Steps that must have been seen before a step is judged, as there."""
ROUNDING = 1e-6
"""Least standard deviation, as a share of the mean: what is less is rounding."""
JUDGED = ("loss", "grad_norm")
"""What is looked at, in this order; one that lies too high makes a spike."""


@dataclass(frozen=True)
class Judged:
    """A number of a step, beside that of the steps before it."""

    is_above: bool
    value: float
    mean: float
    sigma: float


class RecentSteps:
    """The numbers `JUDGED` of the last `LAST` steps, on `device`, which is never waited for.

    Numbers that are not finite count neither for a step nor for those after it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.values = torch.full((2, LAST), torch.nan, dtype=torch.float64, device=device)
        """Of step n at place n % LAST; nan where there is none."""

    def judge(self, step: int, numbers: Tensor) -> Tensor:
        """Compare the `numbers` (2,) of `step` with those of the steps before it, and keep them.

        Returns (4, 2): whether each is a spike, the numbers, and mean and standard deviation of the
        steps before.
        """
        is_known = self.values.isfinite()  # (2, LAST)
        n = is_known.sum(dim=1)
        mean = torch.where(is_known, self.values, 0.0).sum(dim=1) / n
        away = torch.where(is_known, self.values - mean[:, None], 0.0)
        sigma = (away.square().sum(dim=1) / (n - 1)).sqrt()
        limit = mean + SIGMAS * torch.maximum(sigma, ROUNDING * mean.abs())
        is_above = numbers.isfinite() & (numbers > limit) & (n >= LEAST)
        self.values[:, step % LAST] = torch.where(numbers.isfinite(), numbers, torch.nan)
        return torch.stack([is_above.double(), numbers, mean, sigma])

    def move_to(self, device: torch.device) -> Self:
        """Keep the numbers on `device` from now on."""
        self.values = self.values.to(device)
        return self

    def state(self) -> list[list[float]]:
        """What a checkpoint keeps."""
        return self.values.tolist()

    def load(self, state: list[list[float]]) -> None:
        """Restore what a checkpoint kept."""
        self.values.copy_(torch.tensor(state, dtype=torch.float64))


def judged(rows: Tensor) -> dict[str, Judged]:
    """What `RecentSteps.judge` has returned, by the names in `JUDGED`."""
    columns: list[Any] = rows.T.tolist()
    return {
        name: Judged(bool(is_above), value, mean, sigma)
        for name, (is_above, value, mean, sigma) in zip(JUDGED, columns, strict=True)
    }
