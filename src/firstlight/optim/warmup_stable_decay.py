"""Warmup-stable-decay (WSD: Hu et al. 2024, MiniCPM; Hägele et al. 2024).

Before the decay, learning rates do not depend on the length of the run, so a run whose warm-up is a
number of steps can be extended from there as if it had been longer from the start.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from firstlight.optim.warmup import Warmup


class WarmupStableDecay(Warmup):
    """Linear warm-up, the peak, then a decay to `min_lr` over the last `decay_ratio` of the run.

    After a share x of the decay, the rate has fallen by x of the way (`linear`) or by sqrt(x) of it
    (`sqrt`, the "1 - sqrt" that Hägele et al. found better).
    """

    def __init__(
        self,
        *,
        decay_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2,
        decay_shape: Literal["linear", "sqrt"] = "sqrt",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.decay_ratio = decay_ratio
        self.decay_shape = decay_shape

    def decay_steps(self, max_steps: int) -> int:
        """Return the number of steps of the decay."""
        return round(self.decay_ratio * max_steps)

    def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
        decay_steps = self.decay_steps(max_steps)
        decayed = step - (max_steps - decay_steps)
        if decayed <= 0 or decay_steps == 0:
            return peak
        # Beyond the end the rate stays: torch asks for the step after the last.
        progress = min(decayed / decay_steps, 1.0)
        if self.decay_shape == "sqrt":
            progress = math.sqrt(progress)
        return self.min_lr + (peak - self.min_lr) * (1 - progress)

    def check(self, *, max_steps: int, peak: float) -> None:
        super().check(max_steps=max_steps, peak=peak)
        decay_steps = self.decay_steps(max_steps)
        if self.warmup_of(max_steps) + decay_steps > max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup}) and the {decay_steps} steps of decay_ratio"
                f" ({self.decay_ratio}) must be at most the run's {max_steps} steps; lower"
                " scheduler.warmup_steps or scheduler.decay_ratio, or train longer"
            )
