"""A modern decoder: Qwen3's with QK-norm (Yang et al. 2025), Llama's without it.

Llama is Touvron et al. 2023. Differences from GPT-2, with sources: RMSNorm (Zhang & Sennrich 2019),
rotary positions (RoPE, Su et al. 2021), SwiGLU (Shazeer 2020), grouped-query attention (Ainslie et
al. 2023), a norm of queries and keys (Henry et al. 2020), no biases. Parts that are the same as in
model/gpt.py have the same names.

Shapes: B batch, T time, C emb_dim, H heads, K heads of keys and values (H is a multiple of K), D
head_dim (C = H * D), F ff_dim, V vocabulary.
"""

import math
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from firstlight.config import ContextLength, Ratio, VocabSize
from firstlight.model.attention import CausalSelfAttention
from firstlight.model.cache import KVCache, positions_and_mask
from firstlight.model.dropout import Masks, make_dropout
from firstlight.model.few_rows import joined
from firstlight.model.transformer import Transformer, matrices_of_blocks
from firstlight.model.width import WidthParts

EPS = 1e-6
"""Added to the mean square in every norm, as in Qwen3."""

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every angle: (1, T, D / 2) each, or (B, 1, T, D / 2) if rows are padded."""


def rotation(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Compute RoPE at `positions` (T,) or (B, T): pair d turns by theta^(-2d / D) per position."""
    # In float32 whatever the model's dtype: bfloat16 cannot tell position 257 from 256.
    pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)  # (D / 2,)
    frequencies = 1.0 / theta ** (pairs / head_dim)
    angles = positions[..., None].float() * frequencies  # (T, D / 2) or (B, T, D / 2)
    # One dimension for the heads, which all have the same angles.
    angles = angles.unsqueeze(-3)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, by: Rotation) -> Tensor:
    """Turn the pairs of `x` (B, H, T, D), in float32 or better.

    A pair is one element of the first half of a head and its counterpart in the second, as in
    transformers. Su et al. pair neighbours, which is the same up to the order of the rows of the
    query and key matrices.
    """
    cos, sin = by
    first, second = x.chunk(2, dim=-1)  # (B, H, T, D / 2) each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class GroupedQueryAttention(CausalSelfAttention):
    """Causal self-attention in which H / K heads of queries share one head of keys and values.

    That makes the cache H / K times smaller.
    """

    def __init__(
        self,
        emb_dim: int,
        n_heads: int,
        n_kv_heads: int,
        drop_rate: float,
        qk_norm: bool,
        masks: Masks,
    ) -> None:
        super().__init__(drop_rate, masks)
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.head_dim = emb_dim // n_heads
        self.W_query = nn.Linear(emb_dim, emb_dim, bias=False)
        # Fewer heads of keys and values: they are what the cache holds.
        self.W_key = nn.Linear(emb_dim, n_kv_heads * self.head_dim, bias=False)
        self.W_value = nn.Linear(emb_dim, n_kv_heads * self.head_dim, bias=False)
        self.out_proj = nn.Linear(emb_dim, emb_dim, bias=False)
        self.query_norm = nn.RMSNorm(self.head_dim, EPS) if qk_norm else None
        self.key_norm = nn.RMSNorm(self.head_dim, EPS) if qk_norm else None

    def forward(
        self, x: Tensor, by: Rotation, layer: int, cache: KVCache | None, mask: Tensor | None
    ) -> Tensor:
        if self.W_qkv is None:
            # (B, T, H * D) and twice (B, T, K * D)
            projected = (self.W_query(x), self.W_key(x), self.W_value(x))
        else:
            kv_dim = self.n_kv_heads * self.head_dim
            projected = self.W_qkv(x).split((x.shape[-1], kv_dim, kv_dim), dim=-1)
        # (B, T, H * D) -> (B, H, T, D); keys and values have K heads
        queries, keys, values = (
            p.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in projected
        )
        queries = rotated(_normalised(queries, self.query_norm), by)
        # Keys are cached like values. Queries stay in float32: `attend` casts them.
        keys = rotated(_normalised(keys, self.key_norm), by).to(values.dtype)
        return self.attend(queries, keys, values, layer, cache, mask)


def _normalised(x: Tensor, norm: nn.RMSNorm | None) -> Tensor:
    """Apply `norm`, if any, to `x` (..., D)."""
    if norm is None:
        return x
    # Autocast does not convert the input of a norm.
    return norm(x.to(norm.weight.dtype))


class SwiGLU(nn.Module):
    """SiLU(gate(x)) * up(x), projected down again (Shazeer 2020, equation 6)."""

    def __init__(self, emb_dim: int, ff_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(emb_dim, ff_dim, bias=False)
        self.up = nn.Linear(emb_dim, ff_dim, bias=False)
        self.down = nn.Linear(ff_dim, emb_dim, bias=False)
        self.gate_up: nn.Linear | None = None

    def fuse(self) -> None:
        """Join the gate and up matrices: one product instead of two, the same sums."""
        if self.gate_up is None:
            self.gate_up = joined(self.gate, self.up)
            del self.gate, self.up

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_up is None:
            gate, up = self.gate(x), self.up(x)  # (B, T, F) each
        else:
            gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # (B, T, F) -> (B, T, C)


class TransformerBlock(nn.Module):
    """A pre-norm block: each sublayer reads a normalised copy of the residual stream."""

    def __init__(
        self,
        emb_dim: int,
        n_heads: int,
        n_kv_heads: int,
        ff_dim: int,
        drop_rate: float,
        qk_norm: bool,
        masks: Masks,
    ) -> None:
        super().__init__()
        self.att = GroupedQueryAttention(emb_dim, n_heads, n_kv_heads, drop_rate, qk_norm, masks)
        self.ff = SwiGLU(emb_dim, ff_dim)
        self.norm1 = nn.RMSNorm(emb_dim, EPS)
        self.norm2 = nn.RMSNorm(emb_dim, EPS)
        self.drop_shortcut = make_dropout(drop_rate, masks)

    def forward(
        self, x: Tensor, by: Rotation, layer: int, cache: KVCache | None, mask: Tensor | None
    ) -> Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x), by, layer, cache, mask))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class ModernGPT(Transformer):
    """Rotary positions and pre-RMSNorm blocks of grouped-query attention and SwiGLU.

    `n_kv_heads=None` is as many as `n_heads`. `ff_dim=None` is 8/3 of `emb_dim`, rounded up to a
    multiple of 32: its three matrices then have as many parameters as GPT-2's two (Shazeer 2020),
    and no row is padded in 8 bits (model/int8.py). Every matrix is drawn from N(0, 0.02), and the
    two projections into the residual stream are scaled by 1 / sqrt(2 * n_layers) (Radford et al.
    2019). Dropout applies where `GPT` has it; `dropout` says how masks are drawn on a CPU
    (model/dropout.py).

    Raises:
        ValueError: `n_heads` does not divide `emb_dim`, or `n_kv_heads` `n_heads`, or the width of
            a head is odd.
    """

    free_settings = frozenset({"context_length", "drop_rate", "tie_weights", "dropout"})
    adopted_settings = frozenset({"vocab_size", "n_kv_heads", "ff_dim", "qk_norm"})

    def __init__(
        self,
        *,
        vocab_size: VocabSize,
        context_length: ContextLength,
        emb_dim: Annotated[int, Field(gt=0, le=2**16)],
        n_heads: Annotated[int, Field(gt=0, le=2**16)],
        n_layers: Annotated[int, Field(gt=0, le=512)],
        n_kv_heads: Annotated[int, Field(gt=0, le=2**16)] | None = None,
        ff_dim: Annotated[int, Field(gt=0, le=2**18)] | None = None,
        qk_norm: bool = True,
        rope_theta: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10_000.0,
        drop_rate: Ratio = 0.0,
        tie_weights: bool = True,
        dropout: Masks = "torch",
    ) -> None:
        if n_kv_heads is None:
            n_kv_heads = n_heads
        if ff_dim is None:
            # 8/3 of emb_dim in units of 32.
            ff_dim = 32 * math.ceil(emb_dim / 12)
        if emb_dim % n_heads:
            raise ValueError(f"emb_dim ({emb_dim}) must be divisible by n_heads ({n_heads})")
        if n_heads % n_kv_heads:
            raise ValueError(f"n_heads ({n_heads}) must be divisible by n_kv_heads ({n_kv_heads})")
        if emb_dim // n_heads % 2:
            raise ValueError(
                f"emb_dim / n_heads ({emb_dim // n_heads}) must be even, as rotary positions turn"
                " pairs: choose another emb_dim or n_heads"
            )
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.rope_theta = rope_theta
        self.head_dim = emb_dim // n_heads
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.drop_emb = make_dropout(drop_rate, dropout)
        self.trf_blocks = nn.ModuleList(
            TransformerBlock(emb_dim, n_heads, n_kv_heads, ff_dim, drop_rate, qk_norm, dropout)
            for _ in range(n_layers)
        )
        self.final_norm = nn.RMSNorm(emb_dim, EPS)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        if tie_weights:
            self.out_head.weight = self.tok_emb.weight
        self._init_matrices()

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        n_tokens = ids.shape[1]
        positions, mask = positions_and_mask(n_tokens, ids.device, cache)
        # The angles are the same for all layers.
        by = rotation(positions, self.head_dim, self.rope_theta)
        x = self.drop_emb(self.tok_emb(ids))  # (B, T, C)
        for layer, block in enumerate(self.trf_blocks):
            x = block(x, by, layer, cache, mask)  # (B, T, C)
        # Only now, because every layer writes to the same places of the cache.
        if cache is not None:
            cache.advance(n_tokens)
        return self.final_norm(x)  # (B, T, C)

    def width_parts(self) -> WidthParts:
        return matrices_of_blocks(self, self.head_dim)

    def fused(self) -> Self:
        for block in self.trf_blocks:
            assert isinstance(block, TransformerBlock)
            block.ff.fuse()
        return super().fused()

    def _init_matrices(self) -> None:
        # The residual stream adds up 2 * n_layers outputs, whose variances add up as well.
        residual_std = 0.02 / math.sqrt(2 * len(self.trf_blocks))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                is_into_residual = name.endswith(("att.out_proj.weight", "ff.down.weight"))
                nn.init.normal_(parameter, std=residual_std if is_into_residual else 0.02)
