"""GPT-2's own names and layout of parameters, which OpenAI and Hugging Face both use, and ours."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

Size = Annotated[int, Field(gt=0, lt=2**63)]
"""Of one axis of a published model: what torch can count to."""

_MODULES = {"att.out_proj": "attn.c_proj", "ff.layers.0": "mlp.c_fc", "ff.layers.2": "mlp.c_proj"}
_NORMS = {"norm1": "ln_1", "norm2": "ln_2"}
_QKV = ("att.W_query", "att.W_key", "att.W_value")


def from_gpt2(read: Callable[[str], Tensor], *, n_layers: int, tied: bool = True) -> dict[str, Tensor]:
    """Our state dict of GPT-2's parameters, in float32 and in memory of their own.

    `read` returns the tensor of a name as Hugging Face has it (`h.0.attn.c_attn.weight`, `wte.weight`). It is called
    once a tensor and its result not kept, so that no more than one stands beside the copies. GPT-2 multiplies from
    the left: its matrices are (in, out), torch's are (out, in), and query, key and value are one matrix (C, 3C).
    """
    weights = {
        "tok_emb.weight": _own(read("wte.weight")),
        "pos_emb.weight": _own(read("wpe.weight")),
    }
    for layer in range(n_layers):
        ours, theirs = f"trf_blocks.{layer}", f"h.{layer}"
        for kind in ("weight", "bias"):
            qkv = read(f"{theirs}.attn.c_attn.{kind}")  # (C, 3C) or (3C,)
            for name, part in zip(_QKV, qkv.chunk(3, dim=-1), strict=True):
                weights[f"{ours}.{name}.{kind}"] = _own(part.t())
            del qkv
            for name, their_name in _MODULES.items():
                weights[f"{ours}.{name}.{kind}"] = _own(read(f"{theirs}.{their_name}.{kind}").t())
            for name, their_name in _NORMS.items():
                weights[f"{ours}.{name}.{kind}"] = _own(read(f"{theirs}.{their_name}.{kind}"))
    for kind in ("weight", "bias"):
        weights[f"final_norm.{kind}"] = _own(read(f"ln_f.{kind}"))
    if not tied:
        weights["out_head.weight"] = _own(read("lm_head.weight"))
    return weights


def to_gpt2(weights: dict[str, Tensor], *, n_layers: int) -> dict[str, Tensor]:
    """The state dict of Hugging Face's `GPT2LMHeadModel` for our `weights`.

    Biases of query, key and value that the model does not have are zeros. The head is left out where it is the
    embedding.
    """
    state = {"transformer.wte.weight": weights["tok_emb.weight"], "transformer.wpe.weight": weights["pos_emb.weight"]}
    for layer in range(n_layers):
        ours, theirs = f"trf_blocks.{layer}", f"transformer.h.{layer}"
        for kind in ("weight", "bias"):
            parts = [weights.get(f"{ours}.{name}.{kind}") for name in _QKV]
            zeros = torch.zeros_like(weights[f"{ours}.att.out_proj.bias"])
            qkv = torch.cat([zeros if part is None else part for part in parts])  # (3C, C) or (3C,)
            state[f"{theirs}.attn.c_attn.{kind}"] = qkv.t().contiguous()
            for name, their_name in _MODULES.items():
                state[f"{theirs}.{their_name}.{kind}"] = weights[f"{ours}.{name}.{kind}"].t().contiguous()
            for name, their_name in _NORMS.items():
                state[f"{theirs}.{their_name}.{kind}"] = weights[f"{ours}.{name}.{kind}"]
    for kind in ("weight", "bias"):
        state[f"transformer.ln_f.{kind}"] = weights[f"final_norm.{kind}"]
    head = weights.get("out_head.weight")
    if head is not None and head.data_ptr() != weights["tok_emb.weight"].data_ptr():
        state["lm_head.weight"] = head
    return state


def gpt2_section(
    *,
    vocab_size: int,
    context_length: int,
    emb_dim: int,
    n_heads: int,
    n_layers: int,
    drop_rate: float = 0.1,
    tie_weights: bool = True,
) -> dict[str, Any]:
    """The `model` section of the config of a published GPT-2."""
    return {
        "_target_": "firstlight.model.gpt.GPT",
        "_partial_": True,
        "vocab_size": vocab_size,
        "context_length": context_length,
        "emb_dim": emb_dim,
        "n_heads": n_heads,
        "n_layers": n_layers,
        "drop_rate": drop_rate,
        "qkv_bias": True,
        "tie_weights": tie_weights,
        "init": "gpt2",
    }


def gpt2_tokenizer_section(vocab_size: int) -> dict[str, Any]:
    """The `tokenizer` section of the config of a published GPT-2."""
    return {"_target_": "firstlight.data.tokenizers.gpt2.GPT2Tokenizer", "vocab_size": vocab_size}


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy in float32."""
    return torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)
