"""Cross-entropy fused with the projection to logits, to save memory.

For N tokens and V ids the plain formula holds the logits, their log-probabilities and both
gradients: in bfloat16 about 14 bytes for each of N * V numbers. Here training holds the logits
alone (2 bytes), which become their gradient in place, and evaluation the logits of a few rows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = {"cpu": 2**20}
"""Number of logits turned into probabilities at once: on a CPU, what fits its cache in float32."""
LARGE_CHUNK = 2**26
"""The same on other devices, which need more work at once to be busy."""
IDS = {"cpu": 2**12}
"""Rows of the output matrix whose gradient is computed at once; on other devices, all.

On a CPU one product for GPT-2's 50,257 ids is slower than several (benchmarks/cross_entropy.py)."""
ROWS = 2**10
"""Rows projected at once where no gradient is needed."""


ToGradients = Callable[[Tensor, Tensor, float, float], Tensor]


def logits_to_gradients(
    logits: Tensor, targets: Tensor, z_loss: float, label_smoothing: float
) -> Tensor:
    """Overwrite `logits` (n, V) with the gradients of the losses (n,) of `targets`; return these.

    Few passes over the logits, as they are far larger than any cache of a GPU; compiled, two.
    """
    probs = logits.softmax(dim=-1, dtype=_wide_dtype(logits))  # (n, V)
    largest = logits.amax(dim=1).to(probs.dtype)  # (n,)
    of_targets = logits.gather(1, targets[:, None])[:, 0].to(probs.dtype)  # (n,)
    # The softmax is needed for the gradient anyway, and log p(target) follows from it without
    # log_softmax's second exponential:
    #   log p(target) = log p(likeliest) - (logit of the likeliest - logit of the target).
    log_largest = probs.amax(dim=1).log()
    losses = largest - of_targets - log_largest
    if label_smoothing:
        # (1 - s) of the target's loss and s of the mean over all ids.
        losses = losses + label_smoothing * (of_targets - _wide(logits).mean(dim=1))
    if z_loss:
        # d (log Z)^2 / d logits = 2 log Z * probs
        log_z = largest - log_largest
        losses = losses + z_loss * log_z.square()
        probs = probs * (1 + 2 * z_loss * log_z)[:, None]
    # d loss / d logits = probs - (1 - s) at the target - s / V everywhere.
    at_target = probs.new_full((len(targets), 1), label_smoothing - 1.0)
    grad = probs.scatter_add_(1, targets[:, None], at_target)
    if label_smoothing:
        grad -= label_smoothing / logits.shape[1]
    logits.copy_(grad)
    return losses


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    to_gradients: ToGradients = logits_to_gradients,
) -> Tensor:
    """Return the negative log-likelihoods (N,) of `targets` (N,) in nats.

    `hidden` is (N, C), `weight` is the output matrix (V, C). The losses are float32 (float64 for
    float64 inputs). Under autocast the projection has autocast's precision, as in F.linear, and the
    losses are those of F.cross_entropy for these logits as float32. For `z_loss` and
    `label_smoothing` see `CrossEntropy`. `to_gradients` is `logits_to_gradients`, or that compiled.
    """
    # Autocast does not reach into an autograd.Function, so its casts are made here.
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(
            hidden, weight, targets, z_loss, label_smoothing, to_gradients
        )  # (N,)
    # Evaluation: without a gradient, a few rows of logits at a time are enough.
    losses = []
    with torch.autocast(device, enabled=False):
        for rows, ids in zip(hidden.split(ROWS), targets.split(ROWS), strict=True):
            logits = _wide(rows @ weight.T)  # (ROWS, V)
            loss = F.cross_entropy(logits, ids, reduction="none", label_smoothing=label_smoothing)
            if z_loss:
                loss = loss + z_loss * logits.logsumexp(dim=1).square()
            losses.append(loss)
    return torch.cat(losses)  # (N,)


def _wide(logits: Tensor) -> Tensor:
    """Cast bfloat16 and float16 logits to float32; keep float64."""
    return logits.to(_wide_dtype(logits))


def _wide_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


class _LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy` for training: the logits are overwritten by their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        label_smoothing: float,
        to_gradients: ToGradients,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = hidden @ weight.T  # (N, V)
        losses = []
        n_rows = max(CHUNK.get(hidden.device.type, LARGE_CHUNK) // len(weight), 1)
        for rows, ids in zip(logits.split(n_rows), targets.split(n_rows), strict=True):
            losses.append(to_gradients(rows, ids, z_loss, label_smoothing))
        # The logits, which are their gradient by now: the forward pass has done that work.
        ctx.save_for_backward(hidden, weight, logits)
        return torch.cat(losses)  # (N,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, grad_logits = ctx.saved_tensors
        # The loss's gradient is 1 / N, which bfloat16 would round to 8 bits: it multiplies the
        # smaller tensors, in float32.
        factor = gradients[0][:, None]  # (N, 1)
        grad_hidden = grad_weight = None
        with torch.autocast(hidden.device.type, enabled=False):
            # Frozen parts need none: a product of this size is not made in vain.
            if ctx.needs_input_grad[0]:
                grad_hidden = ((grad_logits @ weight) * factor).to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = _grad_weight(grad_logits, hidden * factor)
        return grad_hidden, grad_weight, None, None, None, None


def _grad_weight(grad_logits: Tensor, hidden: Tensor) -> Tensor:
    """Return grad_logits.T @ hidden (V, C), of (N, V) and (N, C), in the dtype of `grad_logits`."""
    hidden = hidden.to(grad_logits.dtype)  # (N, C)
    grad_weight = hidden.new_empty(grad_logits.shape[1], hidden.shape[1])
    n_ids = IDS.get(hidden.device.type, len(grad_weight))
    for grads, part in zip(grad_logits.split(n_ids, dim=1), grad_weight.split(n_ids), strict=True):
        torch.mm(grads.T, hidden, out=part)  # (ids, N) @ (N, C) -> (ids, C)
    return grad_weight
