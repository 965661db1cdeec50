"""Weights in 8 bits for decoding, which is limited by reading weights: half of bfloat16's bytes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.model.base import LanguageModel
from firstlight.model.few_rows import FewRowsLinear

BLOCK = 32
"""Inputs are padded to multiples of this, or the kernel reads beyond their end (torch 2.13)."""


class Int8Linear(nn.Module):
    """A linear layer whose weights are integers from -127 to 127 times a scale per output.

    Activations are bfloat16. The product is torch's own kernel, which gpt-fast uses on CPUs, too.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()  # (out, in)
        smallest, largest = weight.aminmax(dim=1)
        # The smallest scale keeps a row of zeros from dividing by zero.
        absolute = torch.maximum(-smallest, largest).float().clamp(min=1e-12)
        scale = (absolute / 127).bfloat16()  # (out,)
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        self.padding = (0, -linear.in_features % BLOCK)
        rounded = weight.new_zeros(
            len(weight), linear.in_features + self.padding[1], dtype=torch.int8
        )
        # In parts, because a float32 copy of a whole output matrix is large.
        for start in range(0, len(weight), 1024):
            rows = slice(start, start + 1024)
            # Divided by the scale as rounded to bfloat16, with which the kernel multiplies. It may
            # be rounded down, so the quotient may exceed 127.
            product = (weight[rows].float() / scale[rows, None]).round_().clamp_(-127, 127)
            rounded[rows, : linear.in_features] = product.to(torch.int8)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)
        bias = None if linear.bias is None else linear.bias.detach().bfloat16()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).bfloat16()  # (B * T, in)
        if self.padding[1]:
            rows = F.pad(rows, self.padding)
        product = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale)  # (B * T, out)
        if self.bias is not None:
            product += self.bias
        return product.view(*x.shape[:-1], -1)


def quantize_int8(model: LanguageModel) -> LanguageModel:
    """Change `model` in place, and return it: linear layers in 8 bits, the rest in bfloat16.

    The output head is included, unless the model uses the default `LanguageModel.project`, which
    multiplies by its weights directly.
    """
    kept = None
    if type(model).project is LanguageModel.project:
        kept = model.output_weight
    for module in list(model.modules()):
        for name, child in module.named_children():
            # A layer of another kind may do more with its weights than this one does.
            is_plain = type(child) in (nn.Linear, FewRowsLinear)
            if isinstance(child, nn.Linear) and is_plain and child.weight is not kept:
                setattr(module, name, Int8Linear(child))
    # Integer buffers stay integers: bfloat16() converts only what is floating-point.
    return model.bfloat16()
