"""The loss with its projection, forward and backward: torch's own formula and ours, at the size of GPT-2's 124M.

bf16 autocast of float32 weights (50,257 x 768); also with the gradient of the output matrix as one product. In turn;
medians.

    .venv/bin/python benchmarks/cross_entropy.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from options import positive
from rich.console import Console
from rich.table import Table
from torch import Tensor

from firstlight.training import cross_entropy
from firstlight.training.allocation import keep_freed_memory
from firstlight.training.cross_entropy import linear_cross_entropy

N_IDS, WIDTH = 50257, 768
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")


def in_one_product(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, weight, targets)


def seconds(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[float, float]:
    hidden.grad = weight.grad = None
    ids = {"cpu": N_IDS} if loss is in_one_product else cross_entropy.IDS
    began = time.perf_counter()
    with mock.patch.object(cross_entropy, "IDS", ids), torch.autocast("cpu", torch.bfloat16):
        mean = loss(hidden, weight, targets).mean()
        with torch.autocast("cpu", enabled=False):
            mean.backward()
    return time.perf_counter() - began, float(mean.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=7)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    table = Table("tokens", "formula", "seconds", "times torch's", "loss")
    for n_tokens in (512, 2048):
        torch.manual_seed(0)
        hidden = torch.randn(n_tokens, WIDTH, requires_grad=True)
        weight = (torch.randn(N_IDS, WIDTH) * 0.05).requires_grad_()
        targets = torch.randint(N_IDS, (n_tokens,))
        formulas: dict[str, Loss] = {
            "torch's": plain, "ours": linear_cross_entropy, "ours, the gradient in one product": in_one_product,
        }  # fmt: skip
        found = [{name: seconds(f, hidden, weight, targets) for name, f in formulas.items()} for _ in range(rounds + 2)]
        for name in formulas:
            taken = statistics.median(each[name][0] for each in found[2:])  # the first ones warm up
            base = statistics.median(each["torch's"][0] for each in found[2:])
            table.add_row(str(n_tokens), name, f"{taken:.3f}", f"{base / taken:.2f}", f"{found[0][name][1]:.6f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
