"""Weights in 8 bits: half as many bytes to read for each token as in bfloat16, which is what decoding waits for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.model.base import LanguageModel

BLOCK = 32
"""Inputs come in multiples of it: of others the kernel reads numbers, and memory, beyond the end (torch 2.13)."""


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers from -127 to 127 times a scale for each output.

    Activations are bfloat16. The product is torch's own kernel, the one that gpt-fast uses on a CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()  # (out, in)
        smallest, largest = weight.aminmax(dim=1)
        scale = (torch.maximum(-smallest, largest).float().clamp(min=1e-12) / 127).bfloat16()  # (out,)
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        self.padding = (0, -linear.in_features % BLOCK)
        rounded = weight.new_zeros(len(weight), linear.in_features + self.padding[1], dtype=torch.int8)
        for few in range(0, len(weight), 1024):  # rows, so that no copy of a vocabulary's matrix is needed
            rows = slice(few, few + 1024)
            product = (weight[rows].float() / scale[rows, None]).round_().clamp_(-127, 127)
            rounded[rows, : linear.in_features] = product.to(torch.int8)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).bfloat16()  # (B * T, in)
        if self.padding[1]:
            rows = F.pad(rows, self.padding)
        product = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale)
        if self.bias is not None:
            product += self.bias
        return product.view(*x.shape[:-1], -1)


def quantize_int8(model: LanguageModel) -> LanguageModel:
    """`model`, in place, with all its linear layers in 8 bits and the rest in bfloat16.

    That includes the output head, unless the model leaves it to `LanguageModel.project`, which reads its weights.
    """
    read = model.output_weight if type(model).project is LanguageModel.project else None
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.weight is not read:
                setattr(module, name, Int8Linear(child))
    return model.bfloat16()
