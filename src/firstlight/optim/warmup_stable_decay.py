"""Linear warm-up, the peak, a decay at the end (WSD: Hu et al. 2024, MiniCPM; Hägele et al. 2024).

Up to the decay the rates do not depend on the length of the run: it can be trained longer from there, as if it had been
begun so.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from firstlight.optim.warmup import Warmup


class WarmupStableDecay(Warmup):
    """`initial_lr` to the peak in `warmup_steps`, the peak, then in the last `decay_ratio` of the run to `min_lr`.

    At the part x of the decay the rate is that of a straight line (`linear`), or has fallen by sqrt(x) of the way
    (`sqrt`: "1 - sqrt", which Hägele et al. found the better one).
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
        """Of the last `decay_ratio` of the run, rounded."""
        return round(self.decay_ratio * max_steps)

    def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
        decay_steps = self.decay_steps(max_steps)
        decayed = step - (max_steps - decay_steps)
        if decayed <= 0 or decay_steps == 0:
            return peak
        progress = min(decayed / decay_steps, 1.0)
        fallen = math.sqrt(progress) if self.decay_shape == "sqrt" else progress
        return self.min_lr + (peak - self.min_lr) * (1 - fallen)

    def check(self, *, max_steps: int, peak: float) -> None:
        super().check(max_steps=max_steps, peak=peak)
        if self.warmup_steps + (decay_steps := self.decay_steps(max_steps)) > max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) and the {decay_steps} steps of decay_ratio ({self.decay_ratio}) "
                f"must not be more than the run's {max_steps} steps; lower scheduler.warmup_steps or "
                "scheduler.decay_ratio, or train longer"
            )
