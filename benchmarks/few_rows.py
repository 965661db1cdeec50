"""Compare W x^T with x W^T for a few rows: the matrices of GPT-2's 124M in float32, in turn.

.venv/bin/python benchmarks/few_rows.py
"""

import statistics
import time
from collections.abc import Sequence

import torch
from options import described
from torch import nn

from firstlight.model.few_rows import FewRowsLinear

ROUNDS = 9


def seconds(layers: Sequence[nn.Linear], x: torch.Tensor) -> float:
    began = time.perf_counter()
    for layer in layers:
        layer(x)
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    parser = described(__doc__)
    parser.parse_args()
    print("out x in       rows   x W^T ms   W x^T ms   times")
    for n_out, n_in in ((2304, 768), (768, 768), (3072, 768), (768, 3072), (50257, 768)):
        # More weights than a cache holds, as in a model.
        n_layers = 1 if n_out > 10_000 else 8
        plain = [nn.Linear(n_in, n_out) for _ in range(n_layers)]
        fast = [FewRowsLinear(layer) for layer in plain]
        for rows in (2, 4, 8, 16, 32, 64):
            x = torch.randn(rows, n_in)
            # The first pair warms up.
            pairs = [(seconds(plain, x), seconds(fast, x)) for _ in range(ROUNDS + 1)]
            one, other = (
                statistics.median(p[i] for p in pairs[1:]) / len(plain) * 1e3 for i in (0, 1)
            )
            print(f"{n_out:>5} x {n_in:<5} {rows:>6} {one:10.2f} {other:10.2f} {one / other:7.2f}")


if __name__ == "__main__":
    main()
