"""Pure functions on logits (B, V); a logit of minus infinity rules a token out."""

import torch
from torch import Tensor


def without(logits: Tensor, unused: Tensor | None) -> Tensor:
    """Rule out the ids marked by the mask `unused` (V,); None rules out nothing."""
    if unused is None:
        return logits
    return logits.masked_fill(unused, -torch.inf)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly the `k` largest logits of each row (Fan et al. 2018).

    Of equal logits, those with the lowest ids stay. A `k` beyond the vocabulary keeps everything.
    """
    # The indices of torch.topk are not used: its choice among equal logits may change with the
    # device and the number of threads.
    k = min(k, logits.shape[-1])
    smallest = logits.topk(k).values[..., -1:]  # (B, 1)
    above = logits > smallest  # (B, V)
    equal = logits == smallest
    # The places left for logits equal to the smallest.
    places = k - above.sum(dim=-1, keepdim=True)  # (B, 1)
    kept = above | (equal & (equal.cumsum(dim=-1) <= places))  # (B, V)
    return logits.masked_fill(~kept, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens with a total probability of `p` or more.

    That is the nucleus (Holtzman et al. 2020). At least one token stays; of equally probable ones
    the lower ids come first.
    """
    # A rounded sum of probabilities may reach 1 before the last token.
    if p == 1:
        return logits
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.float().softmax(dim=-1)  # (B, V)
    # The total probability of the tokens before each one.
    before = probabilities.cumsum(dim=-1) - probabilities
    beyond = before >= p
    # The most probable token stays, however small p is.
    beyond[..., 0] = False
    return logits.masked_fill(beyond.scatter(-1, ids, beyond), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least `p` times as probable as the likeliest (Nguyen et al. 2024)."""
    exact = logits.float()
    ratios = (exact - exact.amax(dim=-1, keepdim=True)).exp()  # (B, V)
    return logits.masked_fill(ratios < p, -torch.inf)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits by `penalty`, multiply negative ones by it, where `seen` (B, V).

    From Keskar et al. 2019 (CTRL), section 4.1; multiplying keeps negative logits from rising.
    """
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)  # (B, V)
    return logits.where(~seen, penalised)
