"""Batches that go through the model in parts, and the largest part that fits into memory.

A batch stays what it is, one mean over its tokens; only how much of it is in memory at once
changes.
"""

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from rich.filesize import decimal

from firstlight.data.loader import Batch
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import ConfigError
from firstlight.loss.base import Loss, losses_of
from firstlight.memory_limits import free_memory
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory
from firstlight.training.memory.estimate import is_out_of_memory
from firstlight.training.memory.held import Held
from firstlight.training.trainer import Trainer

USED = {"cpu": 0.6, "cuda": 0.9}
"""Fraction of the free memory that the tensors of a step may take, by device type.

The rest is for what is not counted: on a CPU, where the kernel kills a process that takes too much,
buffers of oneDNN and gaps of malloc took another 0.3 to 0.4 of it (docs/performance.md)."""


def cut(batch: Batch, most: int | None) -> list[Batch]:
    """Cut `batch` into as few parts of at most `most` windows as possible; None: one part.

    The parts have equal sizes, but for one window.
    """
    return cut_into(batch, n_parts_of(len(batch[0]), most))


def cut_into(batch: Batch, n_parts: int) -> list[Batch]:
    """Cut `batch` into so many parts; some are empty if it has fewer windows."""
    inputs, targets = batch
    # tensor_split, not split: of 10 windows with at most 8 the parts are 5 and 5, not 8 and 2.
    return list(zip(inputs.tensor_split(n_parts), targets.tensor_split(n_parts), strict=True))


def n_parts_of(n_windows: int, most: int | None) -> int:
    """In how many parts of at most `most` windows a batch is cut."""
    return max(-(-n_windows // most), 1) if most is not None else 1


def parts_of_a_share(trainer: Trainer) -> tuple[int, int]:
    """In how many parts a process takes its share of a batch, and how many windows each has.

    At most: of an epoch's last batch, which may be smaller, they may be fewer.
    """
    shard = min(trainer.largest_shard, len(trainer.clock.data.windows["train"]))
    n_parts = n_parts_of(shard, trainer.micro_batch_size)
    return trainer.shards_each * n_parts, -(-shard // n_parts)


def find_micro_batch_size(
    model: LanguageModel,
    data: TokenDataModule,
    loss: Loss,
    make_optimizer: OptimizerFactory,
    trainer: Trainer,
) -> int:
    """The windows that a device of `trainer` can train on at once, at most its share of a batch.

    Whole steps of a copy of the model are measured, on more and more windows as long as they are
    sure to fit. The copy is freed, and training's random numbers are not affected.

    Raises:
        ConfigError: not even one window fits, or the device does not tell how much memory it has.
    """
    device = trainer.strategy.root_device
    if device.type not in USED:
        raise ConfigError(
            f"trainer.micro_batch_size: auto works on cpu and cuda, not on {device.type}; give a"
            " number"
        )
    share = min(trainer.largest_shard, len(data.windows["train"]))
    with isolate_rng(), _freed(device):
        n_parts = n_parts_of(
            share, _Probe(model, data, loss, make_optimizer, trainer).largest(share)
        )
    return -(-share // n_parts)


class _Probe:
    """Steps of a copy of `model` on the first windows, with an optimizer of its own."""

    def __init__(
        self,
        model: LanguageModel,
        data: TokenDataModule,
        loss: Loss,
        make_optimizer: OptimizerFactory,
        trainer: Trainer,
    ) -> None:
        self.data, self.loss, self.trainer = data, loss, trainer
        self.device = trainer.strategy.root_device
        self.weights = sum(p.numel() * p.element_size() for p in model.parameters())
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        least = self.weights + 2 * trained  # the copy, gradients, moments
        if self.device.type == "cpu" and least > self.may_use():
            raise ConfigError(self._refusal(least))
        # A copy: steps change weights, and `convert_module` changes the model in place.
        converted = trainer.precision_plugin.convert_module(
            copy.deepcopy(model).to(self.device)
        ).train()
        assert isinstance(converted, LanguageModel)
        self.model: LanguageModel = converted
        self.optimizer = make_optimizer(self.model)

    def may_use(self) -> int:
        """Bytes that a step of this process may take; processes on a CPU share its memory."""
        usable = int(USED[self.device.type] * free_memory(self.device))
        return usable // self.trainer.num_devices if self.device.type == "cpu" else usable

    def largest(self, share: int) -> int:
        """Windows that fit, up to `share`: a step with this number has been made.

        At any moment a step holds a part for the weights and a part for each window. So m windows
        take at most m / n of the peak of n windows, and no step is tried that could take more than
        is free.

        Raises:
            ConfigError: not even one fits.
        """
        n, peak, wanted = 0, 0, 1
        # The first step also allocates the optimizer's state and the libraries' own buffers.
        fits = self._peak(1) is not None
        free = self._free()
        while fits and free > 0 and wanted > n + n // 16:
            found = self._peak(wanted)
            if found is None or found > free:
                break
            n, peak = wanted, found
            wanted = min(n * free // max(peak, 1), share)
        if n == 0:
            raise ConfigError(self._refusal(None))
        return n

    def _free(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        free = self.may_use()
        if self.device.type == "cpu":
            free += self.weights  # the copy goes when this is over
        if self.trainer.world_size > 1:
            free -= self.weights  # DDP's buckets
        return free

    def _peak(self, n_windows: int) -> int | None:
        """Bytes that a step on `n_windows` takes at its peak; None if it ran out of memory."""
        try:
            return peak_memory(self.device, lambda: self._step(n_windows))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self.optimizer.zero_grad(set_to_none=True)
        return None

    def _step(self, n_windows: int) -> None:
        first = self.data.windows["train"][torch.arange(n_windows)]
        inputs, targets = (part.to(self.device) for part in first)  # (B, T) each
        with self.trainer.precision_plugin.forward_context():
            hidden, auxiliary = self.model.hidden_and_auxiliary_loss(inputs)  # (B, T, C)
            losses = losses_of(
                self.loss, hidden.flatten(0, 1), self.model.output_weight, targets.flatten()
            )
            loss = losses.mean() if auxiliary is None else losses.mean() + auxiliary
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _refusal(self, needed: int | None) -> str:
        needs = "does not fit"
        if needed is not None:
            needs = f"needs more than {decimal(needed)}"
        return (
            f"trainer.micro_batch_size: a step on a single window of {self.data.context_length}"
            f" tokens {needs}, and {decimal(max(self.may_use(), 0))} may be used on {self.device};"
            " lower model.context_length, model.n_layers or model.emb_dim"
        )


def peak_memory(device: torch.device, run: Callable[[], object]) -> int:
    """The most bytes that torch holds on `device` during `run()`, above what it held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with Held() as held:
        run()
    return held.most


@contextmanager
def _freed(device: torch.device) -> Iterator[None]:
    """Whatever the block leaves is collected after it."""
    try:
        yield
    finally:
        # Before empty_cache, which gives back only what nobody refers to.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
