"""GPT-2 in Hugging Face's format: what its `config.json` says, and what a safetensors file of it holds."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch import Tensor

from firstlight.config import Ratio
from firstlight.foreign.gpt2 import Size, from_gpt2, gpt2_section
from firstlight.foreign.published import Published
from firstlight.model.gpt import GPT, TransformerBlock


class GPT2Config(Published):
    """GPT-2 (Radford et al. 2019). Where the three dropout rates differ, ours is that of the residual stream."""

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
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"  # two names of one function
    layer_norm_epsilon: float = 1e-5
    resid_pdrop: Ratio = 0.1
    embd_pdrop: Ratio = 0.1
    attn_pdrop: Ratio = 0.1
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: bool = True

    def check(self) -> None:
        if self.layer_norm_epsilon != 1e-5:
            raise ValueError(f"layer_norm_epsilon ({self.layer_norm_epsilon}) must be 1e-05")
        if self.n_inner not in (None, 4 * self.n_embd):
            raise ValueError(f"n_inner ({self.n_inner}) must be 4 * n_embd ({4 * self.n_embd})")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Matrices are (in, out)."""
        width = self.n_embd
        linear = {"attn.c_attn": 3 * width, "attn.c_proj": width, "mlp.c_fc": 4 * width, "mlp.c_proj": width}
        yield "wte.weight", (self.vocab_size, width)
        yield "wpe.weight", (self.n_positions, width)
        for layer in range(self.n_layer):
            for name, out in linear.items():
                yield f"h.{layer}.{name}.weight", (4 * width if name == "mlp.c_proj" else width, out)
                yield f"h.{layer}.{name}.bias", (out,)
            for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
                yield f"h.{layer}.{name}", (width,)
        yield "ln_f.weight", (width,)
        yield "ln_f.bias", (width,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, width)

    def weights(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        return from_gpt2(read, n_layers=self.n_layer, tied=self.tie_word_embeddings)

    def section(self) -> dict[str, Any]:
        return gpt2_section(
            vocab_size=self.vocab_size,
            context_length=self.n_positions,
            emb_dim=self.n_embd,
            n_heads=self.n_head,
            n_layers=self.n_layer,
            drop_rate=self.resid_pdrop,
            tie_weights=self.tie_word_embeddings,
        )

    def note(self) -> str | None:
        if self.resid_pdrop == self.embd_pdrop == self.attn_pdrop:
            return None
        rates = f"resid {self.resid_pdrop}, embd {self.embd_pdrop}, attn {self.attn_pdrop}"
        return f"its dropout rates differ ({rates}); drop_rate is the first"


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
