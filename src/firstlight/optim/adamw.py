"""AdamW (Loshchilov & Hutter 2019) with the choice of what decays."""

from typing import Literal

from torch import nn, optim

from firstlight.config import FiniteNonNegative, FinitePositive, Ratio


def adamw(
    model: nn.Module,
    *,
    lr: FinitePositive,
    betas: tuple[Ratio, Ratio] = (0.9, 0.999),
    eps: FinitePositive = 1e-8,
    weight_decay: FiniteNonNegative = 0.01,
    decay: Literal["matrices", "all"] = "matrices",
    fused: bool = True,
) -> optim.AdamW:
    """torch's AdamW over the parameters of `model`.

    `decay="matrices"` spares everything that is not a matrix (biases, norms) from weight decay, as GPT-3 and nanoGPT
    do; `decay="all"` is the book's. `fused` does an update in one pass over each tensor.
    """
    parameters = list(model.parameters())
    if decay == "all":
        groups = [{"params": parameters}]
    else:
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2]},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
    return optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
