"""Does a run fit its device? Found out before the model is made: the kernel ends what does not, without a word."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.filesize import decimal
from torch import nn, optim
from torch.optim import Optimizer

from firstlight.data.datamodule import TextDataModule
from firstlight.model.base import LanguageModel

BYTES = {"16-true": 2, "bf16-true": 2, "64-true": 8}
"""Of each number of the model, by the trainer's precision; elsewhere 4."""


def check_memory(
    model: Callable[..., LanguageModel],
    data: TextDataModule,
    optimizer: Callable[[nn.Module], Optimizer],
    trainer: Mapping[str, Any],
) -> None:
    """Refuse a run that needs more memory than there is; `trainer` is its section of the config.

    Counted are weights, gradients, AdamW's two moments, and a batch's logits with their gradient in float32. The
    activations come on top, so what passes may still not fit.

    Raises:
        ValueError: it cannot fit.
    """
    with torch.device("meta"):  # the shapes alone
        network = model()
    device, available = device_memory(trainer.get("accelerator", "auto"))
    devices = trainer.get("devices", 1)
    copies, shares = (1, devices) if device == "the GPU" else (devices, 1)  # processes on the CPU share its memory
    moments = 2 if isinstance(optimizer(nn.Linear(1, 1)), optim.Adam) else 0  # AdamW is one
    numbers = network.n_parameters * (2 + moments)
    parameters = copies * numbers * BYTES.get(str(trainer.get("precision")), 4)
    batch = min(data.batch_size, len(data.windows["train"])) // shares
    logits = 8 * batch * data.context_length * network.vocab_size
    if parameters + logits <= available:
        return
    sizes = ("model.n_layers, model.emb_dim", "data.batch_size, model.context_length")
    raise ValueError(
        f"{network.n_parameters:,} parameters need at least {decimal(parameters)} to train, and the logits of a batch "
        f"({batch} x {data.context_length} x {network.vocab_size}) {decimal(logits)}, but {device} has "
        f"{decimal(available)}; lower {sizes[logits > parameters]} or tokenizer.vocab_size"
    )


def device_memory(accelerator: str) -> tuple[str, int]:
    """The device a run with this `trainer.accelerator` is on, in words, and its bytes."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        count = range(torch.cuda.device_count())
        return "the GPU", min(torch.cuda.get_device_properties(i).total_memory for i in count)
    return "this computer", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
