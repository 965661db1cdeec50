"""Cross-entropy fused with the projection to logits, so that the logits never exist in float32 all
at once.

For N tokens and V ids the plain formula holds the logits, their log-probabilities and both
gradients: in bfloat16 about 14 bytes for each of N * V numbers. Here training holds the logits
alone, which become their gradient in place, and evaluation holds the logits of a few rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = {"cpu": 2**20}
"""Logits that become probabilities at a time: on a CPU, what its cache holds in float32."""
LARGE_CHUNK = 2**26
"""The same on other devices, which need much work at once to be busy."""
IDS = {"cpu": 2**12}
"""Rows of the output matrix whose gradient is computed at a time; on other devices all at once. On
a CPU one product for all 50,257 ids of GPT-2 is slower than several (benchmarks/cross_entropy.py).
"""
ROWS = 2**10
"""Rows projected at a time where no gradient is needed."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihoods (N,) of `targets` (N,) in nats, given hidden states (N, C) and the
    output matrix (V, C).

    They are float32 (float64 for float64 inputs). Under autocast the projection has autocast's
    precision, as in F.linear, and the losses are those of F.cross_entropy for these logits as
    float32. `z_loss` and `label_smoothing` are explained at `CrossEntropy`.
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
            if z_loss:
                loss = loss + z_loss * logits.logsumexp(dim=1).square()
            losses.append(loss)
    return torch.cat(losses)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        label_smoothing: float,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = hidden @ weight.T  # (N, V)
        losses = []
        n_rows = max(CHUNK.get(hidden.device.type, LARGE_CHUNK) // len(weight), 1)
        for rows, ids in zip(logits.split(n_rows), targets.split(n_rows), strict=True):
            wide = _wide(rows)
            largest = wide.amax(dim=1)
            of_targets = wide.gather(1, ids[:, None])[:, 0]
            probs = wide.softmax(dim=-1)
            # log p(target) = log p(likeliest) - (its logit - the target's): one exponential less
            # than log_softmax
            log_largest = probs.amax(dim=1).log()
            loss = largest - of_targets - log_largest
            if label_smoothing:
                loss = loss + label_smoothing * (of_targets - wide.mean(dim=1))
            if z_loss:
                log_z = largest - log_largest
                loss = loss + z_loss * log_z.square()
                probs = probs * (1 + 2 * z_loss * log_z)[:, None]
            losses.append(loss)
            # d loss / d logits overwrites the logits.
            grad = probs.scatter_add_(
                1, ids[:, None], probs.new_full((len(ids), 1), label_smoothing - 1.0)
            )
            if label_smoothing:
                grad -= label_smoothing / len(weight)
            rows.copy_(grad)
        ctx.save_for_backward(hidden, weight, logits)
        return torch.cat(losses)  # (N,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, grad_logits = ctx.saved_tensors
        factor = gradients[0][:, None]  # (N, 1), in float32: bfloat16 would round 1 / N to 8 bits
        grad_hidden = grad_weight = None
        with torch.autocast(hidden.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_hidden = ((grad_logits @ weight) * factor).to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = _grad_weight(grad_logits, hidden * factor)
        return grad_hidden, grad_weight, None, None, None


def _grad_weight(grad_logits: Tensor, hidden: Tensor) -> Tensor:
    """`grad_logits` (N, V), transposed, times `hidden` (N, C): (V, C), in the type of
    `grad_logits`.
    """
    hidden = hidden.to(grad_logits.dtype)
    grad_weight = hidden.new_empty(grad_logits.shape[1], hidden.shape[1])
    n_ids = IDS.get(hidden.device.type, len(grad_weight))
    for grads, part in zip(grad_logits.split(n_ids, dim=1), grad_weight.split(n_ids), strict=True):
        torch.mm(grads.T, hidden, out=part)
    return grad_weight
