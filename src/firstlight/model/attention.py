"""Causal attention for training and decoding: torch's, or the plain formula where that is faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from firstlight.model.dropout import Masks, apply_mask, draw_mask, draws_fast, scale_of

SHORT = 512
"""Tokens up to which the plain formula is faster in bfloat16 without dropout (docs/performance.md). What it keeps for
the backward pass grows with their square; with dropout that of torch's does, too."""


def causal_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    drop_rate: float = 0.0,
    masks: Masks = "torch",
) -> Tensor:
    """What each query (B, H, T, D) makes of the keys and values (B, G, S, D) that it may look at: (B, H, T, D).

    Each of G heads of keys and values serves H / G heads of queries (grouped-query attention, Ainslie et al. 2023).
    `mask` says at which places they look, True for those they do; None: where S = T at themselves and those before,
    else at all. `drop_rate` is that of the attention weights, whose dropout is drawn as `masks` says.
    """
    is_causal = mask is None and queries.shape[2] == keys.shape[2]
    is_training = is_causal and queries.requires_grad and masks == "fast" and draws_fast(queries)
    if is_training and (drop_rate > 0 or (queries.dtype == torch.bfloat16 and queries.shape[2] <= SHORT)):
        if (shared := queries.shape[1] // keys.shape[1]) > 1:
            keys, values = (x.repeat_interleave(shared, dim=1) for x in (keys, values))  # (B, H, T, D)
        return _PlainAttention.apply(queries, keys, values, drop_rate)
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=drop_rate,
        is_causal=is_causal,  # it aligns with the first key, not the last
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


class _PlainAttention(torch.autograd.Function):
    """softmax(QK^T / sqrt(D)) V (Vaswani et al. 2017, equation 1), with its gradients written out.

    On a CPU torch's fused kernel is slower than this in bfloat16 for short sequences, and with dropout torch's is this,
    with slower draws.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, drop_rate: float) -> Tensor:
        ctx.shape, n_tokens = queries.shape, queries.shape[2]
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (queries, keys, values))  # (B * H, T, D)
        ctx.factor = q.shape[-1] ** -0.5
        scores = (q * ctx.factor) @ k.mT  # (B * H, T, T)
        scores += torch.full((n_tokens, n_tokens), -torch.inf, dtype=scores.dtype).triu(1)
        weights = scores.softmax(dim=-1)
        mask = draw_mask(weights.shape, drop_rate) if drop_rate else None
        ctx.scale = scale_of(drop_rate)
        ctx.save_for_backward(q, k, v, weights, mask)
        kept = weights if mask is None else apply_mask(weights, mask)
        return (kept @ v).mul_(ctx.scale).view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, weights, mask = ctx.saved_tensors
        g = gradients[0].reshape(v.shape) * ctx.scale  # (B * H, T, D)
        kept = weights if mask is None else apply_mask(weights, mask)
        grad_v = kept.mT @ g
        grad_weights = g @ v.mT  # (B * H, T, T)
        if mask is not None:
            grad_weights = apply_mask(grad_weights, mask)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_q = (grad_scores @ k).mul_(ctx.factor)
        grad_k = (grad_scores.mT @ q).mul_(ctx.factor)
        return grad_q.view(ctx.shape), grad_k.view(ctx.shape), grad_v.view(ctx.shape), None
