"""Does a run fit its device? Found out before the model is made: the kernel ends what does not, without a word."""

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
from firstlight.training.memory_limit import device_memory

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

    Counted are weights, gradients, the optimizer's moments, and the logits of a batch, or of the part of it that is
    taken at once (which become their gradient in place). The activations come on top, so what passes may still not fit.

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
    at_once = trainer.get("micro_batch_size")
    if at_once is not None:
        batch = min(batch, copies * (1 if at_once == "auto" else int(at_once)))
    logits = (2 if "16" in precision else dtype.itemsize) * batch * data.context_length * network.vocab_size
    if parameters + logits <= available:
        return kept
    of_batch = "trainer.micro_batch_size, model.context_length" if batch > copies else "model.context_length"
    sizes = ("model.n_layers, model.emb_dim", of_batch)
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
