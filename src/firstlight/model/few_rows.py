"""Linear layers for decoding, whose inputs have one row per text instead of one per token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = 64
"""With more rows than this, the usual order of the product is as fast."""


class FewRowsLinear(nn.Linear):
    """A linear layer that computes W x^T instead of x W^T for a few float32 rows on a CPU.

    torch's matrix product is faster in this order, most for 2 to 4 rows (benchmarks/few_rows.py).
    The results differ only in rounding. The weights are those of `linear`, not copies.
    """

    def __init__(self, linear: nn.Linear) -> None:
        # On "meta" nothing is allocated or drawn for the weights, which are replaced at once.
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        # One row is a matrix-vector product, which is as fast either way.
        n_rows = input.numel() // self.in_features
        if not 1 < n_rows <= MOST or input.dtype != torch.float32 or input.device.type != "cpu":
            return F.linear(input, self.weight, self.bias)
        product = self.weight @ input.reshape(n_rows, -1).t()  # (out, rows)
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.t().contiguous().view(*input.shape[:-1], -1)  # (rows, out)


def replace_linears(model: nn.Module) -> None:
    """Replace every linear layer of `model` by a `FewRowsLinear`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            # Not isinstance: layers that are already replaced, or quantised, stay.
            if type(child) is nn.Linear:
                setattr(module, name, FewRowsLinear(child))


def joined(*linears: nn.Linear) -> nn.Linear:
    """Join layers of one input into a layer that concatenates their outputs, with the same sums."""
    weight = torch.cat([linear.weight.detach() for linear in linears])  # (sum of outs, in)
    has_bias = linears[0].bias is not None
    # Nothing is allocated or drawn: the weights are replaced at once.
    with torch.device("meta"):
        one = nn.Linear(weight.shape[1], weight.shape[0], has_bias)
    one.weight = nn.Parameter(weight)
    if has_bias:
        one.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return one
