"""Callbacks that end or disturb a run in the middle, named by the tests' configs."""

import errno
import gc
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from firstlight.checkpoints.checkpoint import Checkpoint as StoredCheckpoint
from firstlight.processes import is_further, number
from firstlight.training.callbacks.base import Callback, Watcher


class Crash(BaseException):
    """What a crash looks like to the tests: no `except Exception` gets hold of it."""


class StopAt(pl.Callback):
    def __init__(self, *, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.batch:
            raise Crash


class SignalAt(pl.Callback):
    """Sends the process signals, one after the other."""

    def __init__(self, *, batch: int, names: list[str], hook: str = "on_train_batch_start") -> None:
        self.batch, self.names = batch, names
        setattr(self, hook, self.send)

    def send(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        now = rest[1] if len(rest) == 2 else trainer.global_step * trainer.accumulate_grad_batches
        if now == self.batch:
            for name in self.names:
                os.kill(os.getpid(), getattr(signal, name))
            self.names = []


class SignalFirstAt(SignalAt):
    """Sends SIGTERM to the first of several processes alone."""

    def __init__(self, *, batch: int) -> None:
        super().__init__(batch=batch, names=["SIGTERM"] if not is_further() else [])


class SignalFurtherAt(SignalAt):
    """Sends a signal to the second of several processes alone, in the first attempt of torchrun's."""

    def __init__(self, *, batch: int, name: str, attempt: int | None = None) -> None:
        is_meant = attempt in (None, number("TORCHELASTIC_RESTART_COUNT", 0))
        super().__init__(batch=batch, names=[name] if is_further() and is_meant else [])


class KillFurtherInSave(Callback):
    """Kills the second of several processes while it writes its part of a checkpoint."""

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        if is_further() and trainer.global_step + 1 == self.step:
            os.fsync = self.sync

    def sync(self, descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class FailFurtherInSave(KillFurtherInSave):
    """Lets the disk be full there, after so many calls of fsync: torch's is the first, ours next."""

    def __init__(self, *, step: int, passes: int) -> None:
        super().__init__(step=step)
        self.passes = passes

    def sync(self, descriptor: int) -> None:
        self.passes -= 1
        if self.passes < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FailAt(pl.Callback):
    """Raises in the hooks of one step."""

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        if trainer.global_step == self.step:
            raise LookupError("a callback of the user's has failed")


class FailWhenComplete(pl.Callback):
    """Of Lightning's kind: it fails when nothing of a step is left to do."""

    def __init__(self, *, step: int) -> None:
        self.step = step
        self.steps: list[int] = []

    def on_step_complete(self, trainer: Any) -> None:
        self.steps.append(trainer.global_step)
        if trainer.global_step == self.step:
            raise LookupError(f"a callback of the user's has failed after {self.steps}")


class WatchingFailWhenComplete(FailWhenComplete, Watcher):
    """The same, of a callback that only watches."""


class WatchingFailAt(FailAt, Watcher):
    """The same, of a callback that only watches."""


class KeepsLastWeights(pl.Callback):
    """Writes what weights a run ends with."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = sum(float(weight.detach().double().sum()) for weight in pl_module.parameters())
        Path(trainer.default_root_dir, "last.txt").write_text(repr(total))


class KeepsFiles(Callback):
    """Keeps a copy of a billion bytes or several."""

    keep_less = "copies=1"

    def __init__(self, *, copies: int) -> None:
        self.copies = copies

    def bytes_on_disk(self, plan: Any, *, at_least: bool = False) -> int:
        return 10**9 * (1 if at_least else self.copies)


class FailsToSave(Callback):
    """Fails when nothing of a step is left to do, which would have saved it."""

    saves_step = True

    def on_step_complete(self, trainer: Any) -> None:
        raise LookupError("a callback of the user's could not save")


class KillWorkerAt(pl.Callback):
    """Kills a data worker, as the kernel does when memory runs out."""

    def __init__(self, *, batch: int, hook: str = "on_train_batch_start") -> None:
        self.batch = batch
        setattr(self, hook, self.kill)

    def kill(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        now = rest[1] if len(rest) == 2 else trainer.global_step * trainer.accumulate_grad_batches
        if now == self.batch:
            self.batch = -1  # once
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)


class FullDiskAt(pl.Callback):
    """From one step on nothing can be written below a folder."""

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        if trainer.global_step == self.step:
            real = os.fsync

            def full(descriptor: int) -> None:
                os.fsync = real
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            os.fsync = full


class NanAt(pl.Callback):
    """Makes the loss of some steps nan, through a weight that is put back."""

    def __init__(self, *, steps: list[int], what: str = "loss") -> None:
        self.steps, self.what = steps, what

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        weight = pl_module.model.trf_blocks[0].norm1.weight
        if self.what == "loss" and trainer.global_step + 1 in self.steps:
            self.kept = weight.data.clone()
            weight.data[0] = torch.nan

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weight = pl_module.model.trf_blocks[0].norm1.weight
        if trainer.global_step + 1 in self.steps:
            if self.what == "loss":
                weight.data.copy_(self.kept)
            else:
                weight.grad[0] = torch.inf


class CountCheckpoints(pl.Callback):
    """Fails if the weights that were loaded are still there beside the model's."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gc.collect()
        assert not [found for found in gc.get_objects() if type(found) is StoredCheckpoint]


class CountReads(pl.Callback):
    """How often the host read a number of a tensor, in each batch from its start to its end."""

    counts: ClassVar[list[int]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.counts.clear()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        self.mode = _Reads()
        self.mode.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        self.mode.__exit__(None, None, None)
        self.counts.append(self.mode.count)


class _Reads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class SpikeAt(pl.Callback):
    """Makes the loss of some steps, or the gradient of others, far too large."""

    def __init__(self, *, losses: list[int] | None = None, gradients: list[int] | None = None):
        self.losses, self.gradients = losses or [], gradients or []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        if trainer.global_step + 1 in self.losses:
            self.kept = pl_module.model.final_norm.weight.data.clone()
            pl_module.model.final_norm.weight.data.mul_(300)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step + 1 in self.losses:
            pl_module.model.final_norm.weight.data.copy_(self.kept)
        if trainer.global_step + 1 in self.gradients:
            for parameter in pl_module.parameters():
                parameter.grad.mul_(1e3)
