"""Pure functions of logits (B, V) that rule out tokens by a logit of minus infinity."""

import torch
from torch import Tensor


def without(logits: Tensor, unused: Tensor | None) -> Tensor:
    """Rule out the ids that the mask `unused` (V,) marks; None rules out nothing."""
    if unused is None:
        return logits
    return logits.masked_fill(unused, -torch.inf)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly the `k` largest logits of each row (Fan et al. 2018); of equal ones the lower id
    stays.

    `k` beyond the vocabulary keeps everything.
    """
    k = min(k, logits.shape[-1])
    smallest = logits.topk(k).values[..., -1:]  # (B, 1)
    above = logits > smallest
    equal = logits == smallest
    places = k - above.sum(dim=-1, keepdim=True)  # (B, 1) left for those equal to the smallest
    kept = above | (equal & (equal.cumsum(dim=-1) <= places))
    return logits.masked_fill(~kept, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens whose probabilities sum to `p` or more (Holtzman et al.
    2020, "nucleus").

    At least one stays; of equal ones the lower id. `p` of 1 keeps everything, which a rounded sum
    would not.
    """
    if p == 1:
        return logits
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.float().softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # the sum of the more probable ones
    beyond = before >= p
    beyond[..., 0] = False
    return logits.masked_fill(beyond.scatter(-1, ids, beyond), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least `p` times as probable as the most probable one (Nguyen et al. 2024)."""
    exact = logits.float()
    ratios = (exact - exact.amax(dim=-1, keepdim=True)).exp()
    return logits.masked_fill(ratios < p, -torch.inf)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Where `seen` (B, V), divide positive logits by `penalty` and multiply negative ones (Keskar
    et al. 2019).
    """
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return logits.where(~seen, penalised)
