"""Dropout (Srivastava et al. 2014) whose masks cost a CPU a fraction of what torch's do (docs/performance.md).

torch draws a number of its own for each element, one after another; here 64 random bits decide of four elements, and
the mask is applied as bits. A rate is rounded to a multiple of 1 / 32768, and what is kept is scaled by the rounded
one, so that the expectation is exact. On other devices, and where the model is compiled, torch's own are used.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

Masks = Literal["torch", "fast"]
"""How dropout draws: as torch.nn.Dropout, or with few bits."""

UNIT = 2**15
"""Rates are multiples of 1 / UNIT: 15 of 16 bits are compared, so that a difference fits into 16."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an element."""


class FastDropout(nn.Dropout):
    """nn.Dropout with other draws: the same distribution, from the same generator, in less time."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.p > 0 and draws_fast(input):
            return _Drop.apply(input, self.p)
        return super().forward(input)


def draws_fast(x: Tensor) -> bool:
    """Is `x` where few bits are faster? What torch compiles has kernels of its own, and no place for these draws."""
    return x.device.type == "cpu" and not is_compiling()


def make_dropout(rate: float, masks: Masks) -> nn.Dropout:
    """The layer that drops with probability `rate`."""
    return FastDropout(rate) if masks == "fast" else nn.Dropout(rate)


def draw_mask(shape: torch.Size, rate: float) -> Tensor:
    """int16 of `shape`, drawn from the default generator: all bits are 1 where an element is kept, 0 where not."""
    n = math.prod(shape)
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:n].view(shape)
    below = bits.bitwise_and_(UNIT - 1).sub_(_units(rate))  # negative where dropped
    return below.bitwise_right_shift_(15).bitwise_not_()


def scale_of(rate: float) -> float:
    """What the elements that are kept are multiplied with."""
    return UNIT / (UNIT - _units(rate))


def _units(rate: float) -> int:
    """The rounded rate in units; never all of it, which would leave nothing to scale."""
    return min(round(rate * UNIT), UNIT - 1)


def apply_mask(x: Tensor, mask: Tensor) -> Tensor:
    """A copy of `x` with zeros where `mask` has no bits; not scaled."""
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
