"""Cross-entropy fused with the projection to logits, which then are never there in float32 all at once.

Of N tokens and V ids the plain formula holds the logits, their logarithms of probabilities and both gradients: in bf16
about 14 bytes for each of N * V numbers. Here training holds the logits alone, which become their gradient in place,
and evaluation those of a few rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = {"cpu": 2**20}
"""Logits that are made probabilities at a time, by device: in float32 what a processor keeps near."""
LARGE_CHUNK = 2**26
"""The same on other devices, which want much to do at once."""
IDS = {"cpu": 2**12}
"""Ids whose rows of the output matrix get their gradient at a time, by device; on others all at once. On a CPU one
product for all 50,257 of GPT-2 is slower than several (benchmarks/cross_entropy.py)."""
ROWS = 2**10
"""Rows that are projected at a time where no gradient is wanted."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Negative log-likelihoods (N,) of the ids `targets` (N,), given hidden states (N, C) and the output matrix (V, C).

    In nats, and in float32 (float64 for float64). Under autocast the product is taken in its precision, as by
    F.linear; the losses then are those of F.cross_entropy of the logits as float32. With `z_loss` that much of the
    squared logarithm of the softmax's denominator is added; `label_smoothing` is that of F.cross_entropy.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets, z_loss, label_smoothing)
    losses = []
    with torch.autocast(device, enabled=False):
        for rows, ids in zip(hidden.split(ROWS), targets.split(ROWS), strict=True):
            logits = _wide(rows @ weight.T)  # (ROWS, V)
            loss = F.cross_entropy(logits, ids, reduction="none", label_smoothing=label_smoothing)
            losses.append(loss + z_loss * logits.logsumexp(dim=1).square() if z_loss else loss)
    return torch.cat(losses)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, label_smoothing: float
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = hidden @ weight.T  # (N, V)
        losses = []
        n_rows = max(CHUNK.get(hidden.device.type, LARGE_CHUNK) // len(weight), 1)
        for rows, ids in zip(logits.split(n_rows), targets.split(n_rows), strict=True):
            wide = _wide(rows)
            largest, of_targets = wide.amax(dim=1), wide.gather(1, ids[:, None])[:, 0]
            lead = largest - of_targets  # of the likeliest id over the target
            probs = wide.softmax(dim=-1)
            log_largest = probs.amax(dim=1).log()
            loss = lead - log_largest  # one exponential less than with log_softmax
            if label_smoothing:
                loss = loss + label_smoothing * (of_targets - wide.mean(dim=1))
            if z_loss:
                log_z = largest - log_largest
                loss = loss + z_loss * log_z.square()
                probs = probs * (1 + 2 * z_loss * log_z)[:, None]
            losses.append(loss)
            # d loss / d logits, in the place of the logits
            grad = probs.scatter_add_(1, ids[:, None], probs.new_full((len(ids), 1), label_smoothing - 1.0))
            rows.copy_(grad - label_smoothing / len(weight) if label_smoothing else grad)
        ctx.save_for_backward(hidden, weight, logits)
        return torch.cat(losses)  # (N,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, grad_logits = ctx.saved_tensors
        factor = gradients[0][:, None]  # (N, 1), in float32: 1 / N is not to be rounded to 8 bits
        with torch.autocast(hidden.device.type, enabled=False):
            grad_hidden = ((grad_logits @ weight) * factor).to(hidden.dtype) if ctx.needs_input_grad[0] else None
            grad_weight = _grad_weight(grad_logits, hidden * factor) if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_weight, None, None, None


def _grad_weight(grad_logits: Tensor, hidden: Tensor) -> Tensor:
    """grad_logits (N, V), transposed, times hidden (N, C): (V, C), in the type of the former."""
    hidden = hidden.to(grad_logits.dtype)
    grad_weight = hidden.new_empty(grad_logits.shape[1], hidden.shape[1])
    n_ids = IDS.get(hidden.device.type, len(grad_weight))
    for grads, part in zip(grad_logits.split(n_ids, dim=1), grad_weight.split(n_ids), strict=True):
        torch.mm(grads.T, hidden, out=part)
    return grad_weight
