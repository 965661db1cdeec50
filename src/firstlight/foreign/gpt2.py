"""GPT-2 in Hugging Face's terms: its `config.json`, and its parameters beside ours."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from firstlight.config import Ratio
from firstlight.foreign.published import Published, Size, own_float32, untied_head
from firstlight.model.gpt import GPT, TransformerBlock

_QKV = ("att.W_query", "att.W_key", "att.W_value")
_MODULES = {
    "att.out_proj": "attn.c_proj",
    "ff.layers.0": "mlp.c_fc",
    "ff.layers.2": "mlp.c_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
}


class GPT2Config(Published):
    """GPT-2 (Radford et al. 2019).

    If its three dropout rates differ, ours is that of the residual stream.
    """

    title = "GPT-2"
    prefix = "transformer."
    embedding = "wte.weight"
    depth_key = "n_layer"
    no_weights = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
    has_default_tokenizer = True

    n_positions: Size
    n_embd: Size
    n_head: Size
    n_layer: Size
    n_inner: int | None = None
    # Two names of the same function, GELU by tanh.
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    resid_pdrop: Ratio = 0.1
    embd_pdrop: Ratio = 0.1
    attn_pdrop: Ratio = 0.1
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: bool = True

    def check(self) -> None:
        # torch's default, which our LayerNorm has; another one would change the logits silently.
        if self.layer_norm_epsilon != 1e-5:
            raise ValueError(f"layer_norm_epsilon ({self.layer_norm_epsilon}) must be 1e-05")
        if self.n_inner not in (None, 4 * self.n_embd):
            raise ValueError(f"n_inner ({self.n_inner}) must be 4 * n_embd ({4 * self.n_embd})")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every parameter; GPT-2's matrices are (in, out)."""
        width = self.n_embd
        linear = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }
        yield "wte.weight", (self.vocab_size, width)
        yield "wpe.weight", (self.n_positions, width)
        for layer in range(self.n_layer):
            for name, (n_in, n_out) in linear.items():
                yield f"h.{layer}.{name}.weight", (n_in, n_out)
                yield f"h.{layer}.{name}.bias", (n_out,)
            for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
                yield f"h.{layer}.{name}", (width,)
        yield "ln_f.weight", (width,)
        yield "ln_f.bias", (width,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, width)

    def weights(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        weights = {
            "tok_emb.weight": own_float32(read("wte.weight")),
            "pos_emb.weight": own_float32(read("wpe.weight")),
        }
        for kind in ("weight", "bias"):
            for layer in range(self.n_layer):
                # GPT-2 has query, key and value in one matrix, and stores all matrices as (in,
                # out).
                parts = _split(read(f"h.{layer}.attn.c_attn.{kind}"))
                for name, part in zip(_QKV, parts, strict=True):
                    weights[f"trf_blocks.{layer}.{name}.{kind}"] = part
            # .t() leaves biases and norms, which have one axis, as they are.
            for ours, theirs in _modules(self.n_layer):
                weights[f"{ours}.{kind}"] = own_float32(read(f"{theirs}.{kind}").t())
        if not self.tie_word_embeddings:
            weights["out_head.weight"] = own_float32(read("lm_head.weight"))
        return weights

    def section(self) -> dict[str, Any]:
        return {
            "_target_": "firstlight.model.gpt.GPT",
            "_partial_": True,
            "vocab_size": self.vocab_size,
            "context_length": self.n_positions,
            "emb_dim": self.n_embd,
            "n_heads": self.n_head,
            "n_layers": self.n_layer,
            "drop_rate": self.resid_pdrop,
            "qkv_bias": True,
            "tie_weights": self.tie_word_embeddings,
            "init": "gpt2",
        }

    def note(self) -> str | None:
        if self.resid_pdrop == self.embd_pdrop == self.attn_pdrop:
            return None
        rates = f"resid {self.resid_pdrop}, embd {self.embd_pdrop}, attn {self.attn_pdrop}"
        return f"its dropout rates differ ({rates}); drop_rate is the first"


def gpt2_tokenizer_section(vocab_size: int) -> dict[str, Any]:
    """The `tokenizer` section of our config for a published GPT-2."""
    return {"_target_": "firstlight.data.tokenizers.gpt2.GPT2Tokenizer", "vocab_size": vocab_size}


def gpt2_config(model: GPT) -> dict[str, Any]:
    """What transformers' `GPT2Config` needs to be this model."""
    block = model.trf_blocks[0]
    assert isinstance(block, TransformerBlock)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": model.context_length,
        "n_embd": model.tok_emb.embedding_dim,
        "n_layer": len(model.trf_blocks),
        "n_head": block.att.n_heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), model.drop_emb.p),
    }


def to_gpt2(weights: dict[str, Tensor], *, n_layers: int) -> dict[str, Tensor]:
    """The state dict of Hugging Face's `GPT2LMHeadModel` for our `weights`.

    The head is left out if it is the embedding.
    """
    state = {
        "transformer.wte.weight": weights["tok_emb.weight"],
        "transformer.wpe.weight": weights["pos_emb.weight"],
    }
    for kind in ("weight", "bias"):
        for layer in range(n_layers):
            block = f"trf_blocks.{layer}"
            # A model without qkv_bias has no biases here; GPT-2 always does.
            zeros = torch.zeros_like(weights[f"{block}.att.out_proj.bias"])
            parts = [weights.get(f"{block}.{name}.{kind}", zeros) for name in _QKV]
            qkv = torch.cat(parts)  # (3C, C) or (3C,)
            state[f"transformer.h.{layer}.attn.c_attn.{kind}"] = qkv.t().contiguous()
        for ours, theirs in _modules(n_layers):
            state[f"transformer.{theirs}.{kind}"] = weights[f"{ours}.{kind}"].t().contiguous()
    head = untied_head(weights)
    if head is not None:
        state["lm_head.weight"] = head
    return state


def _modules(n_layers: int) -> Iterator[tuple[str, str]]:
    """Our name and theirs of every module with a weight and a bias, but for the attention's QKV."""
    yield "final_norm", "ln_f"
    for layer in range(n_layers):
        for ours, theirs in _MODULES.items():
            yield f"trf_blocks.{layer}.{ours}", f"h.{layer}.{theirs}"


def _split(qkv: Tensor) -> list[Tensor]:
    """Copies of query, key and value, (C, C) or (C,), from GPT-2's one tensor, (C, 3C) or (3C,)."""
    return [own_float32(part.t()) for part in qkv.chunk(3, dim=-1)]
