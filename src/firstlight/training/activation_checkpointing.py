"""Blocks whose activations are computed again in the backward pass, in place of being kept."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from firstlight.model.base import LanguageModel


def checkpoint_activations(model: LanguageModel) -> None:
    """Let every block of `model` keep only its inputs for the backward pass, in place.

    Parameters keep their names, and the numbers are the same bit for bit: dropout draws again what
    it drew before.

    Raises:
        ValueError: the model has no blocks.
    """
    if not model.repeated_blocks:
        raise ValueError(
            f"activation_checkpointing: {type(model).__name__} has no blocks to compute again (a"
            " ModuleList, or its property blocks)"
        )
    for block in model.repeated_blocks:
        # A class of its own, so that a copy of the model computes with its own blocks.
        kind = type(block)
        block.__class__ = type(kind.__name__, (_Recomputed, kind), {})


class _Recomputed(nn.Module):
    """Its forward pass is that of the next class, without what that keeps."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*args, **kwargs)
        return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)
