"""AdamW (Loshchilov & Hutter 2019) with a choice of which parameters decay."""

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
    """Make torch's AdamW for the parameters of `model`; for `decay` see `decay_groups`."""
    groups = decay_groups(model.parameters(), decay)
    # A fused optimizer can skip a step on the device, by which `LateCheck` saves a sync.
    return optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def decay_groups(parameters: Iterable[nn.Parameter], decay: Decay) -> list[dict[str, Any]]:
    """Group `parameters` by whether weight decay applies.

    `decay="matrices"` excludes biases and norms, as GPT-3 and nanoGPT do; `decay="all"` decays
    every parameter, as the book does.
    """
    parameters = list(parameters)
    if decay == "all":
        return [{"params": parameters}]
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
