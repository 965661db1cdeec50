"""Does a run fit its device? Found out before the model is made: the kernel ends what does not, without a word."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.filesize import decimal
from torch import optim
from torch.optim import Optimizer

from firstlight.config import blame
from firstlight.data.datamodule import TextDataModule
from firstlight.model.base import LanguageModel
from firstlight.optim.muon import MuonAdamW

DTYPES = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Of the numbers of the model, by the trainer's precision; elsewhere float32."""


def check_memory(
    model: Callable[..., LanguageModel],
    data: TextDataModule,
    optimizer: Callable[[LanguageModel], Optimizer],
    trainer: Mapping[str, Any],
) -> int:
    """Refuse a run that needs more memory than there is; `trainer` is its section of the config.

    Returns how many numbers the optimizer keeps.

    Counted are weights, gradients, the optimizer's moments, and a batch's logits (which become their gradient in
    place). The activations come on top, so what passes may still not fit.

    Raises:
        ValueError: it cannot fit.
        ConfigError: the optimizer refuses the model.
    """
    precision = str(trainer.get("precision"))
    dtype = DTYPES.get(precision, torch.float32)
    with torch.device("meta"):  # the shapes alone
        network = model().to(dtype)
    try:
        kept = moments(optimizer(network))
    except (TypeError, ValueError) as error:
        raise blame("optimizer", error) from error
    device, available = device_memory(trainer.get("accelerator", "auto"))
    devices = trainer.get("devices", 1)
    copies, shares = (1, devices) if device == "the GPU" else (devices, 1)  # processes on the CPU share its memory
    parameters = copies * (2 * network.n_parameters + kept) * dtype.itemsize
    batch = min(data.batch_size, len(data.windows["train"])) // shares
    logits = (2 if "16" in precision else dtype.itemsize) * batch * data.context_length * network.vocab_size
    if parameters + logits <= available:
        return kept
    sizes = ("model.n_layers, model.emb_dim", "data.batch_size, model.context_length")
    raise ValueError(
        f"{network.n_parameters:,} parameters need at least {decimal(parameters)} to train, and the logits of a batch "
        f"({batch} x {data.context_length} x {network.vocab_size}) {decimal(logits)}, but {device} has "
        f"{decimal(available)}; lower {sizes[logits > parameters]} or tokenizer.vocab_size"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Is this what torch raises where a device, or the computer, has no memory left?"""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)  # DefaultCPUAllocator's
    )


def moments(optimizer: Optimizer) -> int:
    """Numbers that `optimizer` keeps from step to step, at least: AdamW two for each of its parameters, Muon one."""
    if isinstance(optimizer, MuonAdamW):
        return moments(optimizer.muon) + moments(optimizer.adamw)
    of_each = 2 if isinstance(optimizer, optim.Adam) else int(isinstance(optimizer, optim.Muon))  # AdamW is an Adam
    return of_each * sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def device_memory(accelerator: str) -> tuple[str, int]:
    """The device a run with this `trainer.accelerator` is on, in words, and its bytes."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        count = range(torch.cuda.device_count())
        return "the GPU", min(torch.cuda.get_device_properties(i).total_memory for i in count)
    return "this computer", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
