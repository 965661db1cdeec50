"""GPT-2 (Radford et al. 2019) with the names of the book's chapter 4.

The book is "Build a Large Language Model (From Scratch)" (Raschka 2024).

Shapes: B batch, T time, C emb_dim, H heads, D head_dim (C = H * D), V vocabulary.
"""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from firstlight.config import ContextLength, Ratio, VocabSize
from firstlight.model.attention import CausalSelfAttention
from firstlight.model.cache import KVCache, positions_and_mask
from firstlight.model.dropout import Masks, make_dropout
from firstlight.model.transformer import Transformer, matrices_of_blocks
from firstlight.model.width import WidthParts


class MultiHeadAttention(CausalSelfAttention):
    """Causal self-attention with as many heads of keys and values as of queries."""

    def __init__(
        self, emb_dim: int, n_heads: int, drop_rate: float, qkv_bias: bool, masks: Masks
    ) -> None:
        super().__init__(drop_rate, masks)
        self.n_heads = n_heads
        self.W_query = nn.Linear(emb_dim, emb_dim, bias=qkv_bias)
        self.W_key = nn.Linear(emb_dim, emb_dim, bias=qkv_bias)
        self.W_value = nn.Linear(emb_dim, emb_dim, bias=qkv_bias)
        self.out_proj = nn.Linear(emb_dim, emb_dim)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None) -> Tensor:
        # Three matrices in training, as in checkpoints; one after `fuse`.
        if self.W_qkv is None:
            projected = (self.W_query(x), self.W_key(x), self.W_value(x))  # (B, T, C) each
        else:
            projected = self.W_qkv(x).chunk(3, dim=-1)  # (B, T, C) each
        batch_size, n_tokens, _ = x.shape
        # (B, T, C) -> (B, H, T, D)
        queries, keys, values = (
            p.view(batch_size, n_tokens, self.n_heads, -1).transpose(1, 2) for p in projected
        )
        return self.attend(queries, keys, values, layer, cache, mask)


class FeedForward(nn.Module):
    """Two layers, four times as wide in between, with GPT-2's tanh approximation of GELU."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(emb_dim, 4 * emb_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * emb_dim, emb_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # (B, T, C)


class TransformerBlock(nn.Module):
    """A pre-norm block: each sublayer reads a normalised copy of the residual stream."""

    def __init__(
        self, emb_dim: int, n_heads: int, drop_rate: float, qkv_bias: bool, masks: Masks
    ) -> None:
        super().__init__()
        self.att = MultiHeadAttention(emb_dim, n_heads, drop_rate, qkv_bias, masks)
        self.ff = FeedForward(emb_dim)
        self.norm1 = nn.LayerNorm(emb_dim)
        self.norm2 = nn.LayerNorm(emb_dim)
        self.drop_shortcut = make_dropout(drop_rate, masks)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None) -> Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x), layer, cache, mask))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPT(Transformer):
    """GPT-2: learned positions and pre-norm blocks.

    Dropout applies to embeddings, attention weights and shortcuts; `dropout` says how masks are
    drawn on a CPU (model/dropout.py). `init="torch"` keeps torch's default initialisation, which
    the book uses; `init="gpt2"` draws every matrix from N(0, 0.02) and scales the two projections
    into the residual stream by 1 / sqrt(2 * n_layers).

    Raises:
        ValueError: `emb_dim` is not divisible by `n_heads`.
    """

    free_settings = frozenset({"context_length", "drop_rate", "tie_weights", "init", "dropout"})
    adopted_settings = frozenset({"vocab_size", "qkv_bias"})

    def __init__(
        self,
        *,
        vocab_size: VocabSize,
        context_length: ContextLength,
        emb_dim: Annotated[int, Field(gt=0, le=2**16)],
        n_heads: Annotated[int, Field(gt=0, le=2**16)],
        n_layers: Annotated[int, Field(gt=0, le=512)],
        drop_rate: Ratio = 0.1,
        qkv_bias: bool = False,
        tie_weights: bool = False,
        init: Literal["torch", "gpt2"] = "torch",
        dropout: Masks = "torch",
    ) -> None:
        if emb_dim % n_heads:
            raise ValueError(f"emb_dim ({emb_dim}) must be divisible by n_heads ({n_heads})")
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        # The order of construction is the book's, because it decides which random numbers each
        # matrix is drawn from.
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.pos_emb = nn.Embedding(context_length, emb_dim)
        self.drop_emb = make_dropout(drop_rate, dropout)
        self.trf_blocks = nn.ModuleList(
            TransformerBlock(emb_dim, n_heads, drop_rate, qkv_bias, dropout)
            for _ in range(n_layers)
        )
        self.final_norm = nn.LayerNorm(emb_dim)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        if tie_weights:
            self.out_head.weight = self.tok_emb.weight
        self.head_dim, self.init = emb_dim // n_heads, init
        if init == "gpt2":
            self._init_gpt2()

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        n_tokens = ids.shape[1]
        positions, mask = positions_and_mask(n_tokens, ids.device, cache)
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))  # (B, T, C)
        for layer, block in enumerate(self.trf_blocks):
            x = block(x, layer, cache, mask)  # (B, T, C)
        # Only now, because every layer writes to the same places of the cache.
        if cache is not None:
            cache.advance(n_tokens)
        return self.final_norm(x)  # (B, T, C)

    def width_parts(self) -> WidthParts:
        """See `LanguageModel.width_parts`.

        Raises:
            ValueError: the first weights are torch's.
        """
        if self.init == "torch":
            raise ValueError(
                "model.init (torch) must be gpt2: torch's first weights follow the width already,"
                " and otherwise"
            )
        return matrices_of_blocks(self, self.head_dim)

    def adapted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Transformer.adapted`; of a longer context, keep the first position embeddings.

        Raises:
            ValueError: the weights have a shorter context, or are untied while this model is tied.
        """
        weights = super().adapted(weights)
        positions = weights.get("pos_emb.weight")
        if positions is None:
            # Of another kind of model: loading them will say what is missing.
            return weights
        if self.context_length > len(positions):
            raise ValueError(
                f"context_length ({self.context_length}) must be at most {len(positions)}, that of"
                " the weights"
            )
        return {**weights, "pos_emb.weight": positions[: self.context_length]}

    def _init_gpt2(self) -> None:
        """Initialise as GPT-2 (Radford et al. 2019, section 2.3; OpenAI's code has the 0.02)."""
        # The residual stream adds up 2 * n_layers outputs, whose variances add up as well.
        residual_std = 0.02 / math.sqrt(2 * len(self.trf_blocks))
        for name, parameter in self.named_parameters():
            if name.endswith(("att.out_proj.weight", "ff.layers.2.weight")):
                nn.init.normal_(parameter, std=residual_std)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
