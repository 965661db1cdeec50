"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"), with AdamW for the rest.

Muon's updates are scaled as by Liu et al. 2025 ("Muon is scalable for LLM training"): to the root mean square of
AdamW's, so that one learning rate and one weight decay serve both.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn, optim
from torch.optim import Optimizer

from firstlight.config import FiniteNonNegative, FinitePositive, Ratio
from firstlight.model.base import LanguageModel
from firstlight.optim.adamw import Decay, decay_groups


class MuonAdamW(Optimizer):
    """Muon and AdamW, each with parameters of its own, as one: Lightning's automatic optimization takes one optimizer.

    The groups and the state of both are held here, for schedules and checkpoints; `muon` and `adamw` work on them.
    """

    def __init__(self, muon: optim.Muon, adamw: optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], defaults={})
        self.muon, self.adamw = muon, adamw

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        n = len(
            self.muon.param_groups
        )  # load_state_dict makes new groups and a new state: they are shared at each step
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:n], self.param_groups[n:]
        self.muon.state = self.adamw.state = self.state
        self.muon.step()
        self.adamw.step()
        return loss


def muon(
    model: LanguageModel,
    *,
    lr: FinitePositive,
    momentum: Ratio = 0.95,
    nesterov: bool = True,
    ns_steps: Annotated[int, Field(gt=0, lt=100)] = 5,
    betas: tuple[Ratio, Ratio] = (0.9, 0.95),
    eps: FinitePositive = 1e-8,
    weight_decay: FiniteNonNegative = 0.1,
    decay: Decay = "matrices",
    fused: bool = True,
) -> MuonAdamW:
    """torch's Muon over the hidden matrices of `model`, its AdamW over all other parameters.

    `momentum`, `nesterov` and `ns_steps` (of the Newton-Schulz iteration) are Muon's; `betas`, `eps` and `fused` are
    AdamW's. Hidden matrices always decay; for the others see `decay_groups`.

    Raises:
        ValueError: there is no hidden matrix, or torch's Muon would be wrong for it.
    """
    hidden = hidden_matrices(model)
    if not hidden:
        raise ValueError(
            f"{type(model).__name__} has no hidden matrix for Muon, only embeddings, the output and vectors; "
            "use optimizer=adamw"
        )
    if not nesterov and any(p.dtype == torch.bfloat16 for p in hidden):  # torch 2.13 normalises it in place
        raise ValueError("nesterov (False) must be true for weights in bfloat16, or torch's Muon spoils its momentum")
    of_muon = set(hidden)
    others = decay_groups((p for p in model.parameters() if p not in of_muon), decay)
    return MuonAdamW(
        optim.Muon(
            hidden,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn="match_rms_adamw",
        ),
        optim.AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused),
    )


def hidden_matrices(model: LanguageModel) -> list[nn.Parameter]:
    """All matrices but those whose rows are tokens or positions: of `nn.Embedding`s, and the output's."""
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return [p for p in model.parameters() if p.dim() == 2 and p not in tables and p is not model.output_weight]
