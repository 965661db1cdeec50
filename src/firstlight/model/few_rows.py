"""Linear layers for decoding, where a product has a row for each text and not for each token of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = 64
"""Rows beyond which the usual order of the product is as fast."""


class FewRowsLinear(nn.Linear):
    """A linear layer with the weights of another, faster for a few rows: on a CPU in float32 W x^T for x W^T.

    The products are the same, and so are their sums but for rounding; torch's matrix product takes the former order
    faster, most for 2 to 4 rows (benchmarks/few_rows.py).
    """

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        n_rows = input.numel() // self.in_features
        if not (1 < n_rows <= MOST and input.dtype == torch.float32 and input.device.type == "cpu"):
            return F.linear(input, self.weight, self.bias)
        columns = input.reshape(n_rows, -1).t()  # (in, rows)
        bias = 0.0 if self.bias is None else self.bias[:, None]
        product = self.weight @ columns + bias  # (out, rows)
        return product.t().contiguous().view(*input.shape[:-1], -1)


def replace_linears(model: nn.Module) -> None:
    """Make every linear layer of `model` a `FewRowsLinear`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, FewRowsLinear(child))


def joined(*linears: nn.Linear) -> nn.Linear:
    """One linear layer whose outputs are those of `linears`, one behind the other: one product, with the same sums."""
    first = linears[0]
    with torch.device("meta"):
        one = nn.Linear(first.in_features, sum(each.out_features for each in linears), first.bias is not None)
    one.weight = nn.Parameter(torch.cat([each.weight.detach() for each in linears]))
    if first.bias is not None:
        one.bias = nn.Parameter(torch.cat([each.bias.detach() for each in linears]))
    return one
