"""The checkpoints that the book's own code saves (`model.pth`, `model_and_optimizer.pth`), and what to make of them."""

import re
from typing import Any

from torch import Tensor

from firstlight.weights.gpt2 import gpt2_tokenizer_section

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
    """The `model` and `tokenizer` sections of the config that a state dict of the book was made with."""
    vocab_size, emb_dim = state["tok_emb.weight"].shape
    return {
        "model": {
            "_target_": "firstlight.model.gpt.GPT",
            "_partial_": True,
            "vocab_size": vocab_size,
            "context_length": state["pos_emb.weight"].shape[0],
            "emb_dim": emb_dim,
            "n_heads": max(1, emb_dim // HEAD_DIM),
            "n_layers": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("trf_blocks.")),
            "drop_rate": 0.0,
            "qkv_bias": "trf_blocks.0.att.W_query.bias" in state,
        },
        "tokenizer": gpt2_tokenizer_section(vocab_size),
    }
