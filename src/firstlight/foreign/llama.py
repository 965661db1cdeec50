"""Llama and Qwen3 in Hugging Face's terms: their `config.json`, and parameters beside ours."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from firstlight.config import Ratio
from firstlight.foreign.published import Published, Size, own_float32, untied_head
from firstlight.model.modern import EPS, ModernGPT, TransformerBlock

Theta = Annotated[float, Field(ge=1, allow_inf_nan=False)]

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
"""Only Qwen3 has these."""


class RopeParameters(BaseModel):
    """Rotary positions without scaling; any other parameter would change the angles."""

    # Strict: "1e6" as a text, or a key that scales positions, is refused instead of ignored.
    model_config = ConfigDict(strict=True, extra="forbid")
    rope_type: Literal["default"] = "default"
    rope_theta: Theta | None = None


class LlamaConfig(Published):
    """Llama (Touvron et al. 2023), as far as `ModernGPT` computes it.

    That is: no biases, no scaled positions, heads that share the width. Its only dropout is that of
    attention weights; ours is applied everywhere.
    """

    title = "Llama"
    prefix = "model."
    embedding = "embed_tokens.weight"
    depth_key = "num_hidden_layers"
    no_weights = re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
    qk_norm: ClassVar[bool] = False

    max_position_embeddings: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: int | None = None
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: Theta = 10_000.0
    rope_scaling: None = None
    rope_parameters: RopeParameters | None = None
    partial_rotary_factor: None = None
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    attention_dropout: Ratio = 0.0
    tie_word_embeddings: bool = False

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values: as many as heads of queries, unless the config differs."""
        return self.num_key_value_heads or self.num_attention_heads

    def check(self) -> None:
        width, heads = self.hidden_size, self.num_attention_heads
        # Our norm has this constant: with another one the logits would differ silently.
        if self.rms_norm_eps != EPS:
            raise ValueError(f"rms_norm_eps ({self.rms_norm_eps}) must be {EPS}")
        if width % (2 * heads):
            raise ValueError(
                f"hidden_size ({width}) must be divisible by 2 * num_attention_heads ({2 * heads})"
            )
        if self.head_dim not in (None, width // heads):
            rule = f"must be hidden_size / num_attention_heads ({width // heads})"
            raise ValueError(f"head_dim ({self.head_dim}) {rule}")
        if heads % self.n_kv_heads:
            rule = f"must be divisible by num_key_value_heads ({self.n_kv_heads})"
            raise ValueError(f"num_attention_heads ({heads}) {rule}")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every parameter; matrices are (out, in), as ours are."""
        width, ff_width = self.hidden_size, self.intermediate_size
        head_dim = width // self.num_attention_heads
        kv_width = self.n_kv_heads * head_dim
        layer_shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (kv_width, width),
            "self_attn.v_proj": (kv_width, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (ff_width, width),
            "mlp.up_proj": (ff_width, width),
            "mlp.down_proj": (width, ff_width),
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
        }
        if self.qk_norm:
            layer_shapes |= {"self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,)}
        yield "embed_tokens.weight", (self.vocab_size, width)
        for layer in range(self.num_hidden_layers):
            for name, shape in layer_shapes.items():
                yield f"layers.{layer}.{name}.weight", shape
        yield "norm.weight", (width,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, width)

    def weights(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        weights = {}
        for ours, theirs in _names(self.num_hidden_layers, qk_norm=self.qk_norm):
            weights[ours] = own_float32(read(theirs))
        if not self.tie_word_embeddings:
            weights["out_head.weight"] = own_float32(read("lm_head.weight"))
        return weights

    def section(self) -> dict[str, Any]:
        # transformers 5 writes `rope_parameters`, earlier versions wrote `rope_theta`.
        rope_theta = self.rope_theta
        if self.rope_parameters is not None:
            rope_theta = self.rope_parameters.rope_theta or rope_theta
        return {
            "_target_": "firstlight.model.modern.ModernGPT",
            "_partial_": True,
            "vocab_size": self.vocab_size,
            "context_length": self.max_position_embeddings,
            "emb_dim": self.hidden_size,
            "n_heads": self.num_attention_heads,
            "n_layers": self.num_hidden_layers,
            "n_kv_heads": self.n_kv_heads,
            "ff_dim": self.intermediate_size,
            "qk_norm": self.qk_norm,
            "rope_theta": rope_theta,
            "drop_rate": self.attention_dropout,
            "tie_weights": self.tie_word_embeddings,
        }


class Qwen3Config(LlamaConfig):
    """Qwen3 (Yang et al. 2025): Llama with a norm of queries and keys."""

    title = "Qwen3"
    qk_norm = True

    # Defaults of transformers' class, which a config.json may leave out.
    num_key_value_heads: Size | None = 32
    head_dim: int | None = 128
    use_sliding_window: Literal[False] = False
    layer_types: list[Literal["full_attention"]] | None = None


def llama_config(model: ModernGPT) -> dict[str, Any]:
    """The `config.json` of this model for transformers' `Qwen3Config` or `LlamaConfig`.

    Llama's is used if the model has no QK-norm.

    It keeps our dropout rate for attention weights only.
    """
    block = model.trf_blocks[0]
    assert isinstance(block, TransformerBlock)
    # Keys whose defaults we rely on are written, too: another version may have other defaults.
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": model.context_length,
        "hidden_size": model.tok_emb.embedding_dim,
        "intermediate_size": block.ff.down.in_features,
        "num_hidden_layers": len(model.trf_blocks),
        "num_attention_heads": block.att.n_heads,
        "num_key_value_heads": block.att.n_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "rope_theta": model.rope_theta,  # transformers 5 reads rope_parameters instead
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_bias": False,
        "attention_dropout": model.drop_emb.p,
    }
    # Without a norm of queries and keys the model is a Llama, with it a Qwen3.
    if block.att.query_norm is None:
        return config | {"mlp_bias": False}
    return config | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "use_sliding_window": False,
    }


def to_llama(weights: dict[str, Tensor], *, n_layers: int, qk_norm: bool) -> dict[str, Tensor]:
    """The state dict of Hugging Face's `Qwen3ForCausalLM` or `LlamaForCausalLM` (no `qk_norm`).

    It is without the head if that is the embedding.
    """
    state = {}
    for ours, theirs in _names(n_layers, qk_norm=qk_norm):
        # safetensors writes only tensors that are contiguous.
        state[f"model.{theirs}"] = weights[ours].contiguous()
    head = untied_head(weights)
    if head is not None:
        state["lm_head.weight"] = head.contiguous()
    return state


def _names(n_layers: int, *, qk_norm: bool) -> Iterator[tuple[str, str]]:
    """Our name and theirs, without the prefix, of every parameter but the head."""
    modules = dict(_MODULES)
    if qk_norm:
        modules |= _QK_NORMS
    yield "tok_emb.weight", "embed_tokens.weight"
    for layer in range(n_layers):
        for ours, theirs in modules.items():
            yield f"trf_blocks.{layer}.{ours}.weight", f"layers.{layer}.{theirs}.weight"
    yield "final_norm.weight", "norm.weight"
