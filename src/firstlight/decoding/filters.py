"""Pure functions of logits (B, V): a token is ruled out by a logit of minus infinity."""

import torch
from torch import Tensor


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly the `k` largest logits of each row (Fan et al. 2018); of equal ones the lower id stays.

    `k` beyond the vocabulary keeps everything.
    """
    k = min(k, logits.shape[-1])
    kept = logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]  # (B, k)
    return torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))
