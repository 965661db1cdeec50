"""A token embedding and an output matrix that may be one."""

import torch
from torch import Tensor

ENDS = ("tok_emb.weight", "out_head.weight")


def with_both_ends(weights: dict[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """`weights`, of a tied model or an untied one, with both matrices by name, for one that is `tied` or not.

    Raises:
        ValueError: the weights are of an untied model and the one that they are for is tied.
    """
    embedding, head = (weights.get(name, weights.get(other)) for name, other in (ENDS, ENDS[::-1]))
    if embedding is None or head is None:
        return weights  # of something else: whoever loads them says what is missing
    if tied and not torch.equal(head, embedding):
        raise ValueError("tie_weights must be false: the weights to start from have a head of their own")
    return {**weights, **dict(zip(ENDS, (embedding, head), strict=True))}
