"""Attention and feed-forward side by side (Wang & Komatsuzaki 2021, GPT-J), with ALiBi.

ALiBi (Press et al. 2022, "Train short, test long") has no positions: each head lowers its scores by
a slope of its own times the distance. Shapes: B batch, T time, S time with the cache, C emb_dim, H
heads, D head_dim, V vocabulary.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from firstlight.config import ContextLength, Ratio, VocabSize
from firstlight.model.base import LanguageModel
from firstlight.model.cache import KVCache
from firstlight.model.dropout import Masks, make_dropout


def alibi_slopes(n_heads: int) -> Tensor:
    """Slopes (H,): a geometric sequence from 2^(-8/H) down to 2^-8 (section 3 of the paper)."""
    return 2.0 ** (-8.0 * torch.arange(1, n_heads + 1) / n_heads)


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + feed_forward(norm(x)): one norm, and one product into both."""

    def __init__(self, emb_dim: int, n_heads: int, drop_rate: float, masks: Masks) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(emb_dim)
        self.into = nn.Linear(emb_dim, 7 * emb_dim, bias=False)  # queries, keys, values, 4 C inside
        self.att_out = nn.Linear(emb_dim, emb_dim, bias=False)
        self.ff_out = nn.Linear(4 * emb_dim, emb_dim, bias=False)
        self.drop = make_dropout(drop_rate, masks)

    def forward(self, x: Tensor, layer: int, bias: Tensor, cache: KVCache | None) -> Tensor:
        """`x` (B, T, C); `bias` (H, T, S) or (B, H, T, S) is added to the scores."""
        batch_size, n_tokens, emb_dim = x.shape
        *projected, inside = self.into(self.norm(x)).split([emb_dim] * 3 + [4 * emb_dim], dim=-1)
        queries, keys, values = (
            p.view(batch_size, n_tokens, self.n_heads, -1).transpose(1, 2) for p in projected
        )  # (B, H, T, D) each
        if cache is not None:
            keys, values = cache.update(layer, keys, values)  # (B, H, S, D) each
        attended = F.scaled_dot_product_attention(
            queries.to(keys.dtype), keys, values, attn_mask=bias.to(keys.dtype)
        )
        attended = attended.to(x.dtype).transpose(1, 2).flatten(2)  # (B, T, C)
        return x + self.drop(self.att_out(attended) + self.ff_out(F.gelu(inside)))


class ParallelAlibi(LanguageModel):
    """A language model of parallel blocks, without positions.

    Raises:
        ValueError: `emb_dim` is not divisible by `n_heads`.
    """

    free_settings = frozenset({"context_length", "drop_rate", "dropout"})

    def __init__(
        self,
        *,
        vocab_size: VocabSize,
        context_length: ContextLength,
        emb_dim: Annotated[int, Field(gt=0, le=2**16)],
        n_heads: Annotated[int, Field(gt=0, le=2**16)],
        n_layers: Annotated[int, Field(gt=0, le=512)],
        drop_rate: Ratio = 0.0,
        tie_weights: bool = True,
        dropout: Masks = "torch",
    ) -> None:
        if emb_dim % n_heads:
            raise ValueError(f"emb_dim ({emb_dim}) must be divisible by n_heads ({n_heads})")
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.drop_emb = make_dropout(drop_rate, dropout)
        self.blocks = nn.ModuleList(
            ParallelBlock(emb_dim, n_heads, drop_rate, dropout) for _ in range(n_layers)
        )
        self.final_norm = nn.LayerNorm(emb_dim)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        if tie_weights:
            self.out_head.weight = self.tok_emb.weight
        # They follow from the settings, so that a checkpoint need not hold them.
        self.slopes: Tensor
        self.register_buffer("slopes", alibi_slopes(n_heads), persistent=False)  # (H,)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    @property
    def output_weight(self) -> Tensor:
        return self.out_head.weight  # (V, C)

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        n_tokens = ids.shape[1]
        bias = self._bias(n_tokens, cache)
        x = self.drop_emb(self.tok_emb(ids))  # (B, T, C)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, bias, cache)
        if cache is not None:
            cache.advance(n_tokens)
        return self.final_norm(x)

    def new_cache(self) -> KVCache:
        return KVCache(n_layers=len(self.blocks), context_length=self.context_length)

    def _bias(self, n_tokens: int, cache: KVCache | None) -> Tensor:
        """What is added to the scores: -slope * distance, and -inf where a query sees nothing.

        Padding moves queries and keys alike: the distance of two tokens is that of their places.
        """
        start, device = 0 if cache is None else cache.length, self.slopes.device
        keys = torch.arange(start + n_tokens, device=device)
        queries = keys[start:, None]
        seen = None if cache is None else cache.mask(n_tokens, device)
        if seen is None:  # the usual causal mask will do
            seen = keys <= queries  # (T, S)
        distance = (queries - keys).clamp(min=0)  # (T, S)
        bias = -self.slopes[:, None, None].float() * distance  # (H, T, S)
        return bias.masked_fill(~seen, -torch.inf)
