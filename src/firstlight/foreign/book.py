"""The checkpoints that the book's own code saves (`model.pth`, `model_and_optimizer.pth`), and what to make of them."""

import re
from typing import Any

from torch import Tensor

from firstlight.foreign.gpt2 import gpt2_tokenizer_section

HEAD_DIM = 64
"""Of every GPT-2 and of the book; a state dict does not tell the number of heads."""

_RENAMED = {".scale": ".weight", ".shift": ".bias"}  # the book's own LayerNorm has other names than torch's


def is_book_state_dict(state: dict[str, Any]) -> bool:
    """Are these names the ones of the book's `GPTModel`?"""
    return "tok_emb.weight" in state and "final_norm.scale" in state


def from_book(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the book's `GPTModel` with our names; its causal masks are no weights and are dropped."""
    return {
        re.sub(r"\.(scale|shift)$", lambda m: _RENAMED[m[0]], name): tensor
        for name, tensor in state.items()
        if not name.endswith(".att.mask")
    }


def book_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """The `model` and `tokenizer` sections of the config that a state dict of the book was made with.

    Raises:
        ValueError: it is not a whole one.
    """
    embeddings = [state[name] for name in ("tok_emb.weight", "pos_emb.weight") if name in state]
    layers = [int(match[1]) for name in state if (match := re.match(r"trf_blocks\.(\d{1,9})\.", name))]
    if len(embeddings) < 2 or any(weight.dim() != 2 for weight in embeddings) or not layers:
        raise ValueError("tok_emb, pos_emb or trf_blocks is missing, or no matrix")
    (vocab_size, emb_dim), (context_length, _) = (weight.shape for weight in embeddings)
    return {
        "model": {
            "_target_": "firstlight.model.gpt.GPT",
            "_partial_": True,
            "vocab_size": vocab_size,
            "context_length": context_length,
            "emb_dim": emb_dim,
            "n_heads": max(1, emb_dim // HEAD_DIM),
            "n_layers": 1 + max(layers),
            "drop_rate": 0.0,
            "qkv_bias": "trf_blocks.0.att.W_query.bias" in state,
        },
        "tokenizer": gpt2_tokenizer_section(vocab_size),
    }
