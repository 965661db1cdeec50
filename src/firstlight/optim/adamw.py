"""AdamW (Loshchilov & Hutter 2019) with the choice of what decays."""

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn, optim

from firstlight.config import FiniteNonNegative, FinitePositive, Ratio

Decay = Literal["matrices", "all"]


def adamw(
    model: nn.Module,
    *,
    lr: FinitePositive,
    betas: tuple[Ratio, Ratio] = (0.9, 0.999),
    eps: FinitePositive = 1e-8,
    weight_decay: FiniteNonNegative = 0.01,
    decay: Decay = "matrices",
    fused: bool = True,
) -> optim.AdamW:
    """torch's AdamW over the parameters of `model`; see `decay_groups`. `fused` makes one pass over each tensor."""
    groups = decay_groups(model.parameters(), decay)
    return optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def decay_groups(parameters: Iterable[nn.Parameter], decay: Decay) -> list[dict[str, Any]]:
    """Groups of those `parameters` that decay, and of those that do not.

    `decay="matrices"` spares everything that is not a matrix (biases, norms) from weight decay, as GPT-3 and nanoGPT
    do; `decay="all"` is the book's.
    """
    parameters = list(parameters)
    if decay == "all":
        return [{"params": parameters}]
    return [
        {"params": [p for p in parameters if p.dim() >= 2]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
