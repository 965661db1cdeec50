"""Linear warm-up, then cosine decay (Loshchilov & Hutter 2017), as in the book's appendix D."""

import math

from firstlight.optim.warmup import Warmup


class WarmupCosine(Warmup):
    """Linear warm-up to the peak, then half a cosine down to `min_lr` at the end of the run."""

    def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
        warmup_steps = self.warmup_of(max_steps)
        # A step beyond the end keeps `min_lr`: the cosine would rise again.
        progress = min((step - warmup_steps) / (max_steps - warmup_steps), 1.0)
        return self.min_lr + (peak - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
