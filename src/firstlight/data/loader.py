"""Batches that worker processes gather, whose failure never interrupts a step."""

import atexit
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from firstlight.data.windows import Windows
from firstlight.errors import one_line, shorten
from firstlight.process_group import end_with, ended_by, signals_held

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, (B, T) each."""
_Gathered = tuple[np.ndarray, np.ndarray]
"""The same, as a worker sends them."""
AHEAD = 2
"""Batches that each worker is given before they are needed."""


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
        self.loader, self.indices, self.process = loader, iter(loader.order), os.getpid()
        self.pool: ProcessPoolExecutor | None = None
        self.open: deque[tuple[Tensor, Future[_Gathered] | None]] = deque()
        """The batches that come next, in their order: indices (B,), and the work on them where a worker has it."""
        _passes.add(self)
        if not loader.failures:
            self._start()

    def __next__(self) -> Batch:
        self._hand_out()
        if not self.open:
            self.close()
            raise StopIteration
        index, work = self.open.popleft()
        if work is not None and self.pool is not None:
            try:
                inputs, targets = work.result()
            except Exception as error:  # of the worker, or of the way from it to here
                self._take_over(error)
            else:
                return torch.from_numpy(inputs), torch.from_numpy(targets)
        return self.loader.windows[index]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        if self.pool is None or os.getpid() != self.process:  # in a process that was forked from it
            return
        for worker in self._workers():  # they ignore what else would end them, and have nothing to lose
            worker.kill()
        self.pool.shutdown(cancel_futures=True)
        self.pool = None

    def _workers(self) -> list[BaseProcess]:
        """Python 3.14 has kill_workers(), for which this private attribute is read."""
        processes = self.pool._processes if self.pool is not None else None
        return list(processes.values()) if processes is not None else []

    def _start(self) -> None:
        n_workers = self.loader.num_workers
        with signals_held():  # they are started when work is handed out
            try:
                self.pool = ProcessPoolExecutor(
                    n_workers, initializer=_begin, initargs=(os.getpid(), self.loader.windows)
                )
            except OSError as error:
                self._take_over(error)
            else:
                self._hand_out()

    def _hand_out(self) -> None:
        """Keep the workers busy with the batches that come next."""
        most = AHEAD * self.loader.num_workers if self.pool is not None else 1
        while len(self.open) < most:
            index = next(self.indices, None)
            if index is None:
                return
            work = None
            if self.pool is not None:
                try:
                    work = self.pool.submit(_gather, index.numpy())  # a tensor would be sent by a thread of torch's
                except (OSError, BrokenProcessPool) as error:
                    self._take_over(error)
            self.open.append((index, work))

    def _take_over(self, error: Exception) -> None:
        """Gather the batches in this process from now on."""
        ended = wait([worker.sentinel for worker in self._workers()], timeout=1)  # or is just about to
        died = [worker for worker in self._workers() if worker.sentinel in ended]
        self.close()
        self.loader.failures.append(_reason([worker.exitcode or 0 for worker in died], error))


def _reason(exit_codes: list[int], error: Exception) -> str:
    if not isinstance(error, BrokenProcessPool):
        return f"failed ({type(error).__name__}: {shorten(one_line(error), 160)})"
    exit_code = min(exit_codes, default=0)
    if exit_code < 0:
        return f"was {ended_by(-exit_code)}"
    return f"ended with exit code {exit_code}"


_windows: Windows | None = None
"""In a worker: what it gathers from."""


def _begin(parent: int, windows: Windows) -> None:
    """In a worker, when it begins."""
    global _windows
    end_with(parent)
    torch.set_num_threads(1)  # after a fork more of them may wait for each other for ever
    _windows = windows


def _gather(index: np.ndarray) -> _Gathered:
    """In a worker: as arrays, which are sent whole; tensors would need room in /dev/shm."""
    assert _windows is not None
    inputs, targets = _windows[index]
    return inputs.numpy(), targets.numpy()


_passes: WeakSet[_Batches] = WeakSet()


@atexit.register
def end_workers() -> None:
    """End the workers of every pass that was left before its end."""
    for batches in list(_passes):
        batches.close()
