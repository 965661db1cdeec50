"""Whether a run fits into memory, checked before the model is made.

The kernel would kill a process that does not fit, without a message.
"""

from dataclasses import dataclass
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor, optim
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from firstlight.config import argument, blame
from firstlight.data.token_data import TokenDataModule
from firstlight.memory_limits import device_memory
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory
from firstlight.optim.muon import MuonAdamW

DTYPES = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Of the model's weights, by the trainer's precision; float32 for all others."""
OF_MATRICES = (MuonAdamW, optim.Muon, optim.Adafactor, optim.LBFGS)
"""Optimizers whose update of a number depends on others."""
PER_PARAMETER = 2
"""Numbers per parameter in the state of an optimizer whose state cannot be counted: as in AdamW."""


@dataclass(frozen=True)
class Sizes:
    """How many numbers a run holds beside its activations, and its peak learning rate."""

    n_parameters: int
    n_trained: int
    """Those of the parameters that are not frozen: they have gradients."""
    n_optimizer: int
    """Kept by the optimizer from step to step."""
    vocab_size: int
    peak_lr: float
    is_elementwise: bool = True
    """Whether the optimizer updates each number by itself, and not a matrix as a whole."""


def sizes_of(network: LanguageModel, optimizer: OptimizerFactory, precision: str) -> Sizes:
    """The sizes of a run, from the shapes of `network`, which has no memory and is used up.

    Raises:
        ConfigError: the optimizer refuses the model.
    """
    # Muon, for one, looks at the dtype of what it is given.
    network.to(DTYPES.get(precision, torch.float32))
    try:
        made = optimizer(network)
    except (TypeError, ValueError) as error:
        raise blame("optimizer", error) from error
    return Sizes(
        network.n_parameters,
        network.n_trained,
        numbers_kept(made),
        network.vocab_size,
        float(made.param_groups[0]["lr"]),
        not isinstance(made, OF_MATRICES),
    )


def numbers_kept(optimizer: Optimizer) -> int:
    """Numbers that `optimizer` keeps from step to step, counted after one step.

    Its parameters are on the meta device and take no memory.

    An optimizer whose step looks at a number (Adafactor, ASGD) cannot make one here: then
    `PER_PARAMETER` are assumed.
    """
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = False  # no fused kernel works on meta tensors; the state is the same
    try:
        # One step, as optimizers make their state in the first one.
        optimizer.step()
    except Exception:  # whatever an optimizer raises that looks at numbers
        return PER_PARAMETER * sum(parameter.numel() for parameter in parameters)
    state = [
        leaf for leaf in tree_leaves(optimizer.state_dict()["state"]) if isinstance(leaf, Tensor)
    ]
    return sum(tensor.numel() for tensor in state if tensor.dim() > 0)  # without the count of steps


def check_memory(sizes: Sizes, data: TokenDataModule, trainer: dict[str, Any]) -> None:
    """Refuse a run that needs more memory than its device has.

    `trainer` is its section of the config. Counted are weights, gradients, the optimizer's state,
    and the logits of a batch, or of the part of it that is taken at once (their gradient takes
    their place). Activations are not counted, so a run that passes may still not fit.

    Raises:
        ValueError: it cannot fit.
    """
    precision = str(argument(trainer, "precision"))
    n_bytes = DTYPES.get(precision, torch.float32).itemsize
    device, available = device_memory(argument(trainer, "accelerator"))
    devices = argument(trainer, "devices")
    # Processes on the CPU share its memory; each GPU has one process and a share of the batch.
    copies, shares = (1, devices) if device == "the GPU" else (devices, 1)
    numbers = sizes.n_parameters + sizes.n_trained + sizes.n_optimizer
    parameters = copies * numbers * n_bytes
    # Each process has a part, and at times a whole block.
    if argument(trainer, "strategy") == "fsdp2":
        parameters //= devices * argument(trainer, "num_nodes")
    batch = min(data.batch_size, len(data.windows["train"])) // shares
    n_shards = argument(trainer, "virtual_shards")
    if n_shards is not None:  # each goes through the model by itself
        batch = min(batch, copies * -(-data.batch_size // n_shards))
    at_once = argument(trainer, "micro_batch_size")
    if at_once is not None:
        batch = min(batch, copies * (1 if at_once == "auto" else int(at_once)))
    bytes_of_logit = 2 if "16" in precision else n_bytes
    logits = bytes_of_logit * batch * data.context_length * sizes.vocab_size
    if parameters + logits <= available:
        return
    if parameters >= logits:
        lower = "model.n_layers, model.emb_dim"
    elif batch > copies:
        lower = "trainer.micro_batch_size, model.context_length"
    else:
        lower = "model.context_length"
    raise ValueError(
        f"{sizes.n_parameters:,} parameters need at least {decimal(parameters)} to train, and the"
        f" logits of a batch ({batch} x {data.context_length} x {sizes.vocab_size})"
        f" {decimal(logits)}, but {device} has {decimal(available)}; lower {lower} or"
        " tokenizer.vocab_size"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Is this what torch raises where a device, or the computer, has no memory left?"""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)  # DefaultCPUAllocator's
    )
