"""What every model must set and return: `LanguageModel` in words and numbers."""

import copy
from typing import Any

import torch
from torch import Tensor

from firstlight.model.base import LanguageModel


def check_attributes(model: LanguageModel) -> None:
    """Check that `model` has set what its constructor must set.

    Raises:
        ValueError: it has not.
    """
    for name in ("vocab_size", "context_length"):
        value = getattr(model, name, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{type(model).__name__} has {name} {value!r}: its constructor must set"
                f" self.{name} to a whole number above 0"
            )


def check_shapes(model: LanguageModel, ids: Tensor, hidden: Any) -> None:
    """Check what `model.hidden(ids)` has returned, and that the output matrix fits it.

    Raises:
        ValueError: a shape is another.
    """
    name, given = type(model).__name__, tuple(ids.shape)
    if not isinstance(hidden, Tensor):
        raise ValueError(f"{name}.hidden returns {type(hidden).__name__}, it should be a tensor")
    if hidden.dim() != 3 or tuple(hidden.shape[:2]) != given:
        raise ValueError(
            f"{name}.hidden returns a shape of {tuple(hidden.shape)} for ids (B, T) = {given}, it"
            " should be (B, T, C)"
        )
    wanted, weight = (model.vocab_size, hidden.shape[2]), model.output_weight
    if tuple(weight.shape) != wanted:
        raise ValueError(
            f"{name}.output_weight is {tuple(weight.shape)}, it should be {wanted}: vocab_size, and"
            " the last dimension of hidden"
        )


@torch.no_grad()
def hidden_of_shapes(model: LanguageModel) -> tuple[Tensor, Any] | None:
    """Ids (B, T), and what `hidden` returns for them, of a `model` on the meta device.

    None: it looks at numbers, or has tensors elsewhere; its pass then shows nothing.
    """
    ids = torch.zeros(2, min(3, model.context_length), dtype=torch.int64, device="meta")  # (B, T)
    try:
        # A copy: a pass may change buffers.
        return ids, copy.deepcopy(model).eval().hidden(ids)
    except Exception:  # torch raises several kinds where a number is wanted
        return None
