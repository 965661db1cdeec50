"""Linear layers for decoding, where a product has one row a text instead of one a token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = 64
"""With more rows the usual order of the product is as fast."""


class FewRowsLinear(nn.Linear):
    """A linear layer with the weights of another that computes W x^T instead of x W^T for a few
    float32 rows on a CPU.

    torch's matrix product is faster in this order, most for 2 to 4 rows (benchmarks/few_rows.py).
    The results differ in rounding alone.
    """

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        n_rows = input.numel() // self.in_features
        if not 1 < n_rows <= MOST or input.dtype != torch.float32 or input.device.type != "cpu":
            return F.linear(input, self.weight, self.bias)
        product = self.weight @ input.reshape(n_rows, -1).t()  # (out, rows)
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.t().contiguous().view(*input.shape[:-1], -1)


def replace_linears(model: nn.Module) -> None:
    """Replace every linear layer of `model` by a `FewRowsLinear`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, FewRowsLinear(child))


def joined(*linears: nn.Linear) -> nn.Linear:
    """One linear layer whose output is the outputs of `linears` one after another: one product,
    with the same sums.
    """
    weight = torch.cat([linear.weight.detach() for linear in linears])
    has_bias = linears[0].bias is not None
    with torch.device("meta"):  # the weights are replaced at once
        one = nn.Linear(weight.shape[1], weight.shape[0], has_bias)
    one.weight = nn.Parameter(weight)
    if has_bias:
        one.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return one
