"""Batches that worker processes gather, whose failure never interrupts a step."""

import atexit
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing import Lock, active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from firstlight.data.windows import Windows
from firstlight.errors import shorten
from firstlight.process_group import end_with, name_of, signals_held

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, (B, T) each."""
HINTS = {"SIGKILL": ", perhaps because memory ran out", "SIGBUS": ", perhaps because /dev/shm is full"}


class WorkerLoader:
    """The batches whose indices `order` yields, gathered by `num_workers` processes of their own.

    When one of these fails, the reason is added to `failures`, no more are started, and the rest of the batches are
    gathered in this process: the same ones, so that a run can finish its step, be saved, and end.
    """

    def __init__(
        self,
        windows: Windows,
        order: Iterable[Tensor],
        length: int,
        num_workers: int,
        failures: list[str],
    ) -> None:
        self.windows, self.order, self.length = windows, order, length
        self.num_workers, self.failures = num_workers, failures

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return _Batches(self)


class _Batches(Iterator[Batch]):
    """One pass over the batches of a `WorkerLoader`."""

    def __init__(self, loader: WorkerLoader) -> None:
        self.loader, self.indices, self.process = loader, _HandedOut(iter(loader.order)), os.getpid()
        self.workers: list[BaseProcess] = []
        self.batches: Iterator[Batch] | None = None
        _passes.add(self)
        try:
            if not loader.failures:
                self._start()
        except Exception as error:
            self._take_over(error)

    def __next__(self) -> Batch:
        if self.batches is not None:
            try:
                batch = next(self.batches)
            except StopIteration:
                self.close()
                raise
            except Exception as error:  # a worker's, or of the way from it to here
                self._take_over(error)
            else:
                self.indices.open.popleft()
                return batch
        return self.loader.windows[self.indices.open.popleft() if self.indices.open else next(self.indices.all)]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers if os.getpid() == self.process else ():  # not in a process that was forked from it
            worker.kill()  # they ignore what else would end them, and have nothing to lose
        self.workers, self.batches = [], None

    def _start(self) -> None:
        others, is_main = set(active_children()), threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD)
        with signals_held(signal.SIGCHLD):
            # what torch's iterator needs from /dev/shm: where that is full, half of one is made, and fails at its end
            probe = [Lock() for _ in range(4 + 4 * self.loader.num_workers)]
            del probe
            try:
                self.batches = iter(
                    DataLoader(
                        self.loader.windows,
                        batch_size=None,  # the sampler yields whole batches of indices
                        sampler=self.indices,
                        num_workers=self.loader.num_workers,
                        collate_fn=_into_shared_memory,
                        worker_init_fn=partial(_begin, os.getpid()),
                        generator=torch.Generator(),  # else iterating would draw from the global one
                    )
                )
            finally:
                self.workers = [child for child in active_children() if child not in others]
                if is_main:  # torch's raises wherever the main thread is: in the middle of a step, or of a save
                    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

    def _take_over(self, error: Exception) -> None:
        if self.indices.error is not None:  # which was this process's own
            raise error
        wait([worker.sentinel for worker in self.workers], timeout=1)  # for one that is just dying
        died = [worker.exitcode for worker in self.workers if worker.exitcode]
        self.close()
        self.loader.failures.append(_reason(died, error))


class _HandedOut:
    """Indices of batches, on their way to the workers. (It knows no pass: as a cycle, one would outlive its use.)"""

    def __init__(self, all: Iterator[Tensor]) -> None:
        self.all = all
        self.open: deque[Tensor] = deque()
        """Of the batches that the workers have not delivered yet, in their order."""
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            for index in self.all:
                self.open.append(index)
                yield index.numpy()  # a tensor would be sent by a thread, which shows a traceback when its worker dies
        except Exception as error:
            self.error = error
            raise


def _reason(exit_codes: list[int], error: Exception) -> str:
    if exit_codes and exit_codes[0] < 0:
        name = name_of(-exit_codes[0])
        return f"was ended by {name}{HINTS.get(name, '')}"
    if exit_codes:
        return f"ended with exit code {exit_codes[0]}"
    said = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"failed ({shorten(said[-1].strip(), 160)})"  # of an error in a worker the last line, after its traceback


def _begin(parent: int, _: int) -> None:
    """In a worker, when it begins."""
    end_with(parent)
    sys.excepthook = _tell_unless_left


def _tell_unless_left(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Of a thread in a worker: that the process which trains has turned away in the middle of a batch is no news."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _into_shared_memory(batch: Any) -> Any:
    """In a worker: a full /dev/shm is an error here; where torch does this, in a thread, it would be lost."""
    for tensor in batch:
        tensor.share_memory_()
    return batch


_passes: WeakSet[_Batches] = WeakSet()


@atexit.register
def end_workers() -> None:
    """End the workers of every pass that was left before its end."""
    for batches in list(_passes):
        batches.close()
