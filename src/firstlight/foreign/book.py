"""The checkpoints that the book's own code saves (`model.pth`, `model_and_optimizer.pth`)."""

import re
from typing import Any

from torch import Tensor

from firstlight.foreign.gpt2 import gpt2_tokenizer_section

HEAD_DIM = 64
"""Channels of a head in every GPT-2 and in the book; a state dict does not tell n_heads."""


def is_book_state_dict(state: dict[str, Any]) -> bool:
    """Whether the names are those of the book's `GPTModel`."""
    return "tok_emb.weight" in state and "final_norm.scale" in state


def from_book(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the book's `GPTModel` under our names, without its causal masks."""
    weights = {}
    for name, tensor in state.items():
        # The causal masks are buffers of the book's attention, not weights.
        if not name.endswith(".att.mask"):
            # The book's LayerNorm has other names than torch's.
            renamed = re.sub(r"\.shift$", ".bias", re.sub(r"\.scale$", ".weight", name))
            weights[renamed] = tensor
    return weights


def book_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """The `model` and `tokenizer` sections that fit a state dict of the book.

    Raises:
        ValueError: the state dict is not complete.
    """
    tok_emb, pos_emb = state.get("tok_emb.weight"), state.get("pos_emb.weight")
    # At most nine digits: a name from elsewhere could ask for a number of any length.
    blocks = [re.match(r"trf_blocks\.(\d{1,9})\.", name) for name in state]
    layers = [int(block[1]) for block in blocks if block]
    if tok_emb is None or pos_emb is None or tok_emb.dim() != 2 or pos_emb.dim() != 2 or not layers:
        raise ValueError("tok_emb, pos_emb or trf_blocks is missing, or not a matrix")
    vocab_size, emb_dim = tok_emb.shape
    return {
        "model": {
            "_target_": "firstlight.model.gpt.GPT",
            "_partial_": True,
            "vocab_size": vocab_size,
            "context_length": pos_emb.shape[0],
            "emb_dim": emb_dim,
            "n_heads": max(1, emb_dim // HEAD_DIM),
            "n_layers": 1 + max(layers),
            "drop_rate": 0.0,
            "qkv_bias": "trf_blocks.0.att.W_query.bias" in state,
        },
        "tokenizer": gpt2_tokenizer_section(vocab_size),
    }
