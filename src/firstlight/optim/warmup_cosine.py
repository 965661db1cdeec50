"""Linear warm-up, then half a cosine down: the book's appendix D (Loshchilov & Hutter 2017)."""

import math

from firstlight.optim.warmup import Warmup


class WarmupCosine(Warmup):
    """`initial_lr` to the peak in `warmup_steps`, then half a cosine down to `min_lr` at the end of
    the run.
    """

    def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
        progress = (step - self.warmup_steps) / (max_steps - self.warmup_steps)
        return self.min_lr + (peak - self.min_lr) * 0.5 * (
            1 + math.cos(math.pi * min(progress, 1.0))
        )
