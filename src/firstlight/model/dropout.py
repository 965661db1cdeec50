"""Dropout (Srivastava et al. 2014) whose masks are much cheaper on a CPU than torch's
(docs/performance.md).

torch draws one random number for each element; here 64 random bits decide on four elements, and the
mask is applied bitwise. The rate is rounded to a multiple of 1 / 32768, and kept elements are
scaled by the rounded rate, so that the expectation is exact. On other devices, and in a compiled
model, torch's dropout is used.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

Masks = Literal["torch", "fast"]
"""How dropout draws: like torch.nn.Dropout, or with few random bits."""

UNIT = 2**15
"""Rates are multiples of 1 / UNIT: 15 of 16 bits are compared, so that a difference fits into
16."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by the bytes of an element."""


class FastDropout(nn.Dropout):
    """nn.Dropout with cheaper draws: the same distribution, from the same generator, other
    masks."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.p > 0 and draws_fast(input):
            return _Drop.apply(input, self.p)
        return super().forward(input)


def draws_fast(x: Tensor) -> bool:
    """Whether fast masks apply to `x`: on a CPU, but not in a compiled model, which draws in
    kernels of its own.
    """
    return x.device.type == "cpu" and not is_compiling()


def make_dropout(rate: float, masks: Masks) -> nn.Dropout:
    """A dropout layer that draws as `masks` says."""
    return FastDropout(rate) if masks == "fast" else nn.Dropout(rate)


def draw_mask(shape: torch.Size, rate: float) -> Tensor:
    """An int16 mask of `shape` from the default generator: all bits are 1 where an element is kept,
    0 where dropped.
    """
    n = math.prod(shape)
    draws = torch.empty(math.ceil(n / 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[:n].view(shape)
    below = bits.bitwise_and_(UNIT - 1).sub_(_units(rate))  # negative where dropped
    return below.bitwise_right_shift_(15).bitwise_not_()  # the shift spreads the sign over all bits


def scale_of(rate: float) -> float:
    """The factor of the elements that are kept."""
    return UNIT / (UNIT - _units(rate))


def _units(rate: float) -> int:
    """The rounded rate in units, below 1: `scale_of` would divide by zero."""
    return min(round(rate * UNIT), UNIT - 1)


def apply_mask(x: Tensor, mask: Tensor) -> Tensor:
    """A copy of `x`, zero where `mask` is 0; not scaled."""
    integers = INTEGERS[x.element_size()]
    return (x.view(integers) & mask.to(integers)).view(x.dtype)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask = draw_mask(x.shape, rate)
        ctx.save_for_backward(mask)
        ctx.scale = scale_of(rate)
        return apply_mask(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return apply_mask(gradients[0], mask).mul_(ctx.scale), None
