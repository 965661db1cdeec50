"""Time the loss with its projection, forward and backward: torch's formula and ours.

The size is that of GPT-2's 124M: float32 weights of 50,257 x 768 under bf16 autocast. A third row
computes the gradient of the output matrix as one product. All take turns; medians are printed.

    .venv/bin/python benchmarks/cross_entropy.py
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from options import described, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor

from firstlight.loss import fused
from firstlight.loss.fused import linear_cross_entropy
from firstlight.training.memory.allocation import keep_freed_memory

N_IDS, WIDTH = 50257, 768
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")


FORMULAS: dict[str, tuple[Loss, int]] = {
    "torch's": (plain, N_IDS),
    "ours": (linear_cross_entropy, fused.IDS["cpu"]),
    "ours, the gradient in one product": (linear_cross_entropy, N_IDS),
}
"""Each formula, and how many rows of the output matrix get their gradient at once."""


def seconds(
    loss: Loss, n_ids: int, hidden: Tensor, weight: Tensor, targets: Tensor
) -> tuple[float, float]:
    hidden.grad = weight.grad = None
    began = time.perf_counter()
    with mock.patch.dict(fused.IDS, cpu=n_ids), torch.autocast("cpu", torch.bfloat16):
        mean = loss(hidden, weight, targets).mean()
        with torch.autocast("cpu", enabled=False):
            mean.backward()
    return time.perf_counter() - began, float(mean.detach())


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--rounds", type=positive, default=7)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    table = Table("tokens", "formula", "seconds", "times torch's", "loss")
    for n_tokens in (512, 2048):
        torch.manual_seed(0)
        hidden = torch.randn(n_tokens, WIDTH, requires_grad=True)
        weight = (torch.randn(N_IDS, WIDTH) * 0.05).requires_grad_()
        targets = torch.randint(N_IDS, (n_tokens,))
        found = [
            {name: seconds(*formula, hidden, weight, targets) for name, formula in FORMULAS.items()}
            for _ in range(rounds + 2)
        ]
        # The first two rounds warm up.
        taken = {name: statistics.median(each[name][0] for each in found[2:]) for name in FORMULAS}
        for name, median in taken.items():
            times, loss = taken["torch's"] / median, found[0][name][1]
            table.add_row(str(n_tokens), name, f"{median:.3f}", f"{times:.2f}", f"{loss:.6f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
