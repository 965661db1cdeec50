"""Dropout (Srivastava et al. 2014) with masks that are much cheaper on a CPU than torch's.

torch draws one random number per element. Here 64 random bits decide on four elements, and the mask
is applied bitwise (docs/performance.md has the gain). The rate is rounded to a multiple of
1 / 32768, and kept elements are scaled by the rounded rate, so that the expectation is exact. Other
devices and compiled models use torch's dropout.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

Masks = Literal["torch", "fast"]
"""How dropout draws masks: like torch.nn.Dropout, or from few random bits."""

UNIT = 2**15
"""Rates are multiples of 1 / UNIT: 15 of 16 bits are compared, so that differences fit in 16."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtypes by the size of an element in bytes."""


class FastDropout(nn.Dropout):
    """nn.Dropout with cheaper draws: the same generator and distribution, but other masks."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.p > 0 and draws_fast(input):
            return _Drop.apply(input, self.p)
        return super().forward(input)


def draws_fast(x: Tensor) -> bool:
    """Whether `x` gets fast masks: on a CPU, outside of a compiled model."""
    # torch.compile fuses its own draws into its kernels.
    return x.device.type == "cpu" and not is_compiling()


def make_dropout(rate: float, masks: Masks) -> nn.Dropout:
    """Make a dropout layer that draws as `masks` says."""
    return FastDropout(rate) if masks == "fast" else nn.Dropout(rate)


def draw_mask(shape: torch.Size, rate: float) -> Tensor:
    """Draw an int16 mask of `shape`: all bits are 1 where an element is kept, 0 where dropped."""
    n = math.prod(shape)
    # `None` as the upper end is 2^63, so that all 64 bits are random.
    draws = torch.empty(math.ceil(n / 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[:n].view(shape)
    # Negative where dropped; the arithmetic shift then spreads the sign over all bits.
    below = bits.bitwise_and_(UNIT - 1).sub_(_units(rate))
    return below.bitwise_right_shift_(15).bitwise_not_()


def scale_of(rate: float) -> float:
    """Return the factor that scales the elements that are kept."""
    return UNIT / (UNIT - _units(rate))


def _units(rate: float) -> int:
    """Round `rate` to units, below 1: `scale_of` would divide by zero."""
    return min(round(rate * UNIT), UNIT - 1)


def apply_mask(x: Tensor, mask: Tensor) -> Tensor:
    """Copy `x`, with zeros where `mask` is 0; nothing is scaled."""
    # Converting an int16 mask of -1 and 0 to a wider type keeps its bits all 1 or all 0.
    integers = INTEGERS[x.element_size()]
    return (x.view(integers) & mask.to(integers)).view(x.dtype)


class _Drop(torch.autograd.Function):
    """Fast dropout; the backward pass applies the same mask and factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        # The mask is kept, at two bytes an element, and not drawn again: the generator has moved on
        # by then.
        mask = draw_mask(x.shape, rate)
        ctx.save_for_backward(mask)
        ctx.scale = scale_of(rate)
        return apply_mask(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return apply_mask(gradients[0], mask).mul_(ctx.scale), None
