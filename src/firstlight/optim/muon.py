"""Muon (Jordan et al. 2024) for hidden matrices, with AdamW for the rest.

"Muon: An optimizer for hidden layers in neural networks". Its updates are scaled as in Liu et al.
2025 ("Muon is scalable for LLM training"): to the root mean square of AdamW's, so that one learning
rate and one weight decay serve both.
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
    """Muon and AdamW as one optimizer: Lightning's automatic optimization takes only one.

    This object holds the groups and the state of both, for schedules and checkpoints; `muon` and
    `adamw` work on them.
    """

    def __init__(self, muon: optim.Muon, adamw: optim.AdamW) -> None:
        # The groups themselves, not copies: torch keeps the dicts that it is given.
        super().__init__([*muon.param_groups, *adamw.param_groups], defaults={})
        self.muon, self.adamw = muon, adamw

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; return the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # load_state_dict replaces groups and state, so they are shared anew at each step.
        self.muon.param_groups = [group for group in self.param_groups if "ns_steps" in group]
        self.adamw.param_groups = [group for group in self.param_groups if "ns_steps" not in group]
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
    """Make torch's Muon for the hidden matrices of `model` and AdamW for all other parameters.

    `momentum`, `nesterov` and `ns_steps` (Newton-Schulz iterations) are Muon's; `betas`, `eps` and
    `fused` are AdamW's. Hidden matrices always decay; for the others see `decay_groups`.

    Raises:
        ValueError: the model has no hidden matrix, or torch's Muon would train it wrongly.
    """
    hidden = hidden_matrices(model)
    if not hidden:
        raise ValueError(
            f"{type(model).__name__} has no hidden matrix for Muon, only embeddings, the output and"
            " vectors; use optimizer=adamw"
        )
    # torch 2.13 normalises the update in bfloat16, in place. Without Nesterov the update of weights
    # in bfloat16 is the momentum buffer itself, whose running mean would be lost.
    if not nesterov and any(p.dtype == torch.bfloat16 for p in hidden):
        raise ValueError(
            "nesterov (False) must be true for weights in bfloat16, or torch's Muon spoils its"
            " momentum"
        )
    # match_rms_adamw is 0.2 * sqrt(max(rows, columns)) of Liu et al. 2025, section 2.2.
    of_muon = optim.Muon(
        hidden,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        ns_steps=ns_steps,
        adjust_lr_fn="match_rms_adamw",
    )
    # A set compares by identity; `in` on a list would compare tensors element by element.
    hidden_set = set(hidden)
    groups = decay_groups([p for p in model.parameters() if p not in hidden_set], decay)
    return MuonAdamW(
        of_muon,
        optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused),
    )


def hidden_matrices(model: LanguageModel) -> list[nn.Parameter]:
    """Return all matrices except embeddings and the output matrix.

    The rows of those stand for tokens or positions, and Muon is made for maps between vectors.
    """
    # A tied output matrix is an embedding's weight, and so excluded twice.
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        p
        for p in model.parameters()
        if p.dim() == 2 and p not in tables and p is not model.output_weight
    ]
