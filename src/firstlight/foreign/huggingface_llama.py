"""Llama and Qwen3 in Hugging Face's format: what their `config.json` says, what a file of theirs holds."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from firstlight.config import Ratio
from firstlight.foreign.gpt2 import Size
from firstlight.foreign.llama import from_llama
from firstlight.foreign.published import Published
from firstlight.model.modern import EPS, ModernGPT, TransformerBlock

Theta = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class RopeParameters(BaseModel):
    """Rotary positions, unscaled; whatever else there is for them would change the angles."""

    model_config = ConfigDict(strict=True, extra="forbid")
    rope_type: Literal["default"] = "default"
    rope_theta: Theta | None = None


class LlamaConfig(Published):
    """Llama (Touvron et al. 2023), as far as `ModernGPT` computes it: no biases, no scaled positions, heads that
    share the width. Its dropout of attention weights, the only one it has, is ours everywhere."""

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
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    def check(self) -> None:
        width, heads = self.hidden_size, self.num_attention_heads
        if self.rms_norm_eps != EPS:
            raise ValueError(f"rms_norm_eps ({self.rms_norm_eps}) must be {EPS}")
        if width % (2 * heads):
            raise ValueError(f"hidden_size ({width}) must be divisible by 2 * num_attention_heads ({2 * heads})")
        if self.head_dim not in (None, width // heads):
            rule = f"must be hidden_size / num_attention_heads ({width // heads})"
            raise ValueError(f"head_dim ({self.head_dim}) {rule}")
        if heads % self.n_kv_heads:
            rule = f"must be divisible by num_key_value_heads ({self.n_kv_heads})"
            raise ValueError(f"num_attention_heads ({heads}) {rule}")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Matrices are (out, in)."""
        width, ff_width, head_dim = (
            self.hidden_size,
            self.intermediate_size,
            self.hidden_size // self.num_attention_heads,
        )
        kv_width = self.n_kv_heads * head_dim
        norms = {"input_layernorm": width, "post_attention_layernorm": width}
        if self.qk_norm:
            norms |= {"self_attn.q_norm": head_dim, "self_attn.k_norm": head_dim}
        layer_shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (kv_width, width),
            "self_attn.v_proj": (kv_width, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (ff_width, width),
            "mlp.up_proj": (ff_width, width),
            "mlp.down_proj": (width, ff_width),
            **{name: (size,) for name, size in norms.items()},
        }
        yield "embed_tokens.weight", (self.vocab_size, width)
        for layer in range(self.num_hidden_layers):
            for name, shape in layer_shapes.items():
                yield f"layers.{layer}.{name}.weight", shape
        yield "norm.weight", (width,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, width)

    def weights(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        return from_llama(read, n_layers=self.num_hidden_layers, qk_norm=self.qk_norm, tied=self.tie_word_embeddings)

    def section(self) -> dict[str, Any]:
        theta = None if self.rope_parameters is None else self.rope_parameters.rope_theta
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
            "rope_theta": self.rope_theta if theta is None else theta,
            "drop_rate": self.attention_dropout,
            "tie_weights": self.tie_word_embeddings,
        }


class Qwen3Config(LlamaConfig):
    """Qwen3 (Yang et al. 2025): Llama with a norm of queries and keys."""

    title = "Qwen3"
    qk_norm = True

    num_key_value_heads: Size | None = 32
    head_dim: int | None = 128
    use_sliding_window: Literal[False] = False
    layer_types: list[Literal["full_attention"]] | None = None


def llama_config(model: ModernGPT) -> dict[str, Any]:
    """What transformers' `Qwen3Config`, or without QK-norm its `LlamaConfig`, needs to be this model.

    Theirs know dropout of the attention weights alone.
    """
    block = model.trf_blocks[0]
    assert isinstance(block, TransformerBlock)
    is_qwen3 = block.att.query_norm is not None
    own: dict[str, Any] = {"use_sliding_window": False} if is_qwen3 else {"mlp_bias": False}
    return {
        "model_type": "qwen3" if is_qwen3 else "llama",
        "architectures": ["Qwen3ForCausalLM" if is_qwen3 else "LlamaForCausalLM"],
        "max_position_embeddings": model.context_length,
        "hidden_size": model.tok_emb.embedding_dim,
        "intermediate_size": block.ff.down.in_features,
        "num_hidden_layers": len(model.trf_blocks),
        "num_attention_heads": block.att.n_heads,
        "num_key_value_heads": block.att.n_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "rope_theta": model.rope_theta,  # for transformers 4 and readers of its time
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_bias": False,
        "attention_dropout": model.drop_emb.p,
        **own,
    }
