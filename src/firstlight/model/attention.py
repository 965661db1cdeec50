"""Causal attention for training and decoding: torch's kernel, or the plain formula if faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from firstlight.model.cache import KVCache
from firstlight.model.dropout import Masks, apply_mask, draw_mask, draws_fast, scale_of
from firstlight.model.few_rows import joined

SHORT = 512
"""Up to this many tokens the plain formula is faster in bfloat16 without dropout.

See docs/performance.md. What it keeps for the backward pass grows with the square of the tokens;
with dropout torch's kernel keeps as much."""


class CausalSelfAttention(nn.Module):
    """The part that the attention layers of `GPT` and `ModernGPT` share."""

    W_query: nn.Linear
    W_key: nn.Linear
    W_value: nn.Linear
    out_proj: nn.Linear

    def __init__(self, drop_rate: float, masks: Masks) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.masks: Masks = masks
        self.W_qkv: nn.Linear | None = None

    def fuse(self) -> None:
        """Join the query, key and value matrices: one product instead of three, the same sums."""
        if self.W_qkv is None:
            # One product instead of three: with a single row, as in decoding, each costs about the
            # same.
            self.W_qkv = joined(self.W_query, self.W_key, self.W_value)
            del self.W_query, self.W_key, self.W_value

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        layer: int,
        cache: KVCache | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Attend with `queries` (B, H, T, D) to the cache, `keys` and `values` (B, G, T, D).

        Returns (B, T, C).
        """
        # On a CPU the cache is float32 even for a bfloat16 model (see `KVCache`).
        dtype = values.dtype
        if cache is not None:
            keys, values = cache.update(layer, keys, values)  # (B, G, cache.length + T, D)
        # scaled_dot_product_attention drops in evaluation, too, if it is given a rate.
        drop_rate = self.drop_rate if self.training else 0.0
        attended = causal_attention(
            queries.to(keys.dtype), keys, values, mask=mask, drop_rate=drop_rate, masks=self.masks
        )
        # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)
        return self.out_proj(attended.to(dtype).transpose(1, 2).flatten(2))


def causal_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    drop_rate: float = 0.0,
    masks: Masks = "torch",
) -> Tensor:
    """Attend with queries (B, H, T, D) to keys and values (B, G, S, D); return (B, H, T, D).

    Each of G heads of keys and values serves H / G heads of queries (grouped-query attention,
    Ainslie et al. 2023). `mask` is True at the places that a query sees. None means a causal mask
    if S = T, otherwise all places. `drop_rate` is the dropout of the attention weights, drawn as
    `masks` says.
    """
    is_causal = mask is None and queries.shape[2] == keys.shape[2]
    # Decoding, torch's own masks and other devices use torch's kernel.
    is_training = is_causal and queries.requires_grad and masks == "fast" and draws_fast(queries)
    is_short_bf16 = queries.dtype == torch.bfloat16 and queries.shape[2] <= SHORT
    if is_training and (drop_rate > 0 or is_short_bf16):
        n_shared = queries.shape[1] // keys.shape[1]
        if n_shared > 1:
            keys = keys.repeat_interleave(n_shared, dim=1)  # (B, H, T, D)
            values = values.repeat_interleave(n_shared, dim=1)
        return _PlainAttention.apply(queries, keys, values, drop_rate)
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=drop_rate,
        # torch aligns its causal mask with the first key, not the last: right only if S = T.
        is_causal=is_causal,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


class _PlainAttention(torch.autograd.Function):
    """softmax(QK^T / sqrt(D)) V (Vaswani et al. 2017, equation 1), with its gradients spelt out.

    On a CPU torch's fused kernel is slower in bfloat16 for short sequences. With dropout torch uses
    this formula as well, but draws masks more slowly.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, drop_rate: float
    ) -> Tensor:
        ctx.shape = queries.shape
        n_tokens, head_dim = queries.shape[2:]
        q = queries.reshape(-1, n_tokens, head_dim)  # (B * H, T, D)
        k = keys.reshape(-1, n_tokens, head_dim)
        v = values.reshape(-1, n_tokens, head_dim)
        # Scaling the queries instead of the scores touches D numbers per token instead of T.
        ctx.factor = head_dim**-0.5
        scores = (q * ctx.factor) @ k.mT  # (B * H, T, T)
        scores += torch.full((n_tokens, n_tokens), -torch.inf, dtype=scores.dtype).triu(1)
        weights = scores.softmax(dim=-1)  # (B * H, T, T)
        mask = draw_mask(weights.shape, drop_rate) if drop_rate else None
        # Dropout's factor is applied to the output, which is smaller than the weights.
        ctx.scale = scale_of(drop_rate)
        ctx.save_for_backward(q, k, v, weights, mask)
        kept = weights if mask is None else apply_mask(weights, mask)
        return (kept @ v).mul_(ctx.scale).view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, weights, mask = ctx.saved_tensors
        g = gradients[0].reshape(v.shape) * ctx.scale  # (B * H, T, D)
        # Computed again rather than kept: it is as large as the weights.
        kept = weights if mask is None else apply_mask(weights, mask)
        grad_v = kept.mT @ g  # (B * H, T, D)
        grad_weights = g @ v.mT  # (B * H, T, T)
        if mask is not None:
            grad_weights = apply_mask(grad_weights, mask)
        # weights * (grad - sum(grad * weights)), in one kernel of torch's.
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad_weights, weights, -1, weights.dtype
        )
        grad_q = (grad_scores @ k).mul_(ctx.factor)  # (B * H, T, D)
        grad_k = (grad_scores.mT @ q).mul_(ctx.factor)  # (B * H, T, D)
        return grad_q.view(ctx.shape), grad_k.view(ctx.shape), grad_v.view(ctx.shape), None
