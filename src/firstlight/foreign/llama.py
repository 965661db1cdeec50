"""The names of parameters that Llama and Qwen3 have in common in Hugging Face's format, and ours."""

from collections.abc import Callable

import torch
from torch import Tensor

_MODULES = {
    "att.W_query": "self_attn.q_proj",
    "att.W_key": "self_attn.k_proj",
    "att.W_value": "self_attn.v_proj",
    "att.out_proj": "self_attn.o_proj",
    "ff.gate": "mlp.gate_proj",
    "ff.up": "mlp.up_proj",
    "ff.down": "mlp.down_proj",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
}
_QK_NORMS = {"att.query_norm": "self_attn.q_norm", "att.key_norm": "self_attn.k_norm"}
"""Qwen3's alone."""


def llama_names(*, n_layers: int, qk_norm: bool) -> dict[str, str]:
    """Theirs, without the prefix `model.`, by ours; of an untied head, too. Matrices are (out, in) in both."""
    modules = _MODULES | (_QK_NORMS if qk_norm else {})
    layers = {
        f"trf_blocks.{layer}.{ours}.weight": f"layers.{layer}.{theirs}.weight"
        for layer in range(n_layers)
        for ours, theirs in modules.items()
    }
    ends = {"final_norm.weight": "norm.weight", "out_head.weight": "lm_head.weight"}
    return {"tok_emb.weight": "embed_tokens.weight", **layers, **ends}


def from_llama(read: Callable[[str], Tensor], *, n_layers: int, qk_norm: bool, tied: bool) -> dict[str, Tensor]:
    """Our state dict of their parameters, in float32 and in memory of their own; `read` is called once a tensor."""
    names = llama_names(n_layers=n_layers, qk_norm=qk_norm)
    if tied:
        del names["out_head.weight"]
    weights = {}
    for ours, theirs in names.items():
        tensor = read(theirs)
        weights[ours] = torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)
    return weights


def to_llama(weights: dict[str, Tensor], *, n_layers: int, qk_norm: bool) -> dict[str, Tensor]:
    """The state dict of Hugging Face's `Qwen3ForCausalLM` (`qk_norm`) or `LlamaForCausalLM` for our `weights`.

    The head is left out where it is the embedding.
    """
    names = llama_names(n_layers=n_layers, qk_norm=qk_norm)
    head = weights.get("out_head.weight")
    if head is None or head.data_ptr() == weights["tok_emb.weight"].data_ptr():
        del names["out_head.weight"]
    prefixed = {ours: theirs if ours == "out_head.weight" else f"model.{theirs}" for ours, theirs in names.items()}
    return {theirs: weights[ours].contiguous() for ours, theirs in prefixed.items()}
