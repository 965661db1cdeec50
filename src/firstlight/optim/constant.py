"""A constant learning rate, as in the book's chapter 5."""

from firstlight.optim.base import Schedule


class Constant(Schedule):
    """The peak learning rate at every step."""

    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        return peak
