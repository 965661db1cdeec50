"""`accumulate_grad_batches: auto`: batches as large as there is room for, of which a step takes as many as it needs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.data.datamodule import TextDataModule
from firstlight.model.base import LanguageModel
from firstlight.training.cross_entropy import linear_cross_entropy

SHARE = 0.8
"""Of the memory that is planned with: gradients on their way, and what others need, come on top."""


def accumulation_that_fits(
    model: LanguageModel, data: TextDataModule, *, available: int, kept: int, devices: int, precision: str
) -> int:
    """Into how many batches a step of `data.batch_size` windows has to be divided, as few as possible.

    `available` are bytes of a device, of which `kept` are those of weights, gradients and moments. What a window adds
    is measured: the tensors that autograd keeps of one and of two.

    Raises:
        ValueError: not even a batch of one window for each device fits.
    """
    one, two = (_bytes_kept(model, data, n, precision) for n in (1, 2))
    each, fixed = two - one, kept + max(2 * one - two, 0)
    for n in _divisors(data.batch_size // devices):
        if fixed + each * (data.batch_size // devices // n) <= SHARE * available:
            return n
    raise ValueError(
        f"accumulate_grad_batches (auto): a batch of one window needs {(fixed + each) / 1e9:.3g} GB, and "
        f"{SHARE * available / 1e9:.3g} GB can be planned with; lower model.n_layers, model.emb_dim or "
        "model.context_length"
    )


def _bytes_kept(model: LanguageModel, data: TextDataModule, n_windows: int, precision: str) -> int:
    """Bytes of the storages that the backward pass of `n_windows` will read, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if (storage := x.untyped_storage()).data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    ids = torch.zeros(n_windows, data.context_length, dtype=torch.long)  # (B, T)
    dtype = torch.bfloat16 if "16" in precision else torch.float32
    with (
        torch.random.fork_rng(devices=[]),  # dropout draws as if this had not been
        torch.autocast("cpu", dtype, enabled="16" in precision),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        losses = linear_cross_entropy(model.hidden(ids).flatten(0, 1), model.output_weight, ids.flatten())
    total = sum(kept.values())
    del losses  # until here it holds what was counted
    return total


def _divisors(n: int) -> Iterator[int]:
    return (d for d in range(1, n + 1) if n % d == 0)
