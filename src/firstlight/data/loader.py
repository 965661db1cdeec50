"""Batches loaded by worker processes, whose failure never interrupts a step."""

import atexit
import os
import time
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
from firstlight.private import processes_of
from firstlight.process_group import end_with, ended_by, main_not_run_again, signals_held

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, (B, T) each."""
_Gathered = tuple[np.ndarray, np.ndarray]
"""A batch as a worker sends it."""
AHEAD = 2
"""Batches requested from each worker in advance."""


class WorkerLoader:
    """Loads the batches whose indices `order` yields with `num_workers` processes.

    If a worker fails, the reason is added to `failures`, no more workers are started, and this
    process loads the remaining batches. They are the same, so a run can finish its step, save and
    end.
    """

    def __init__(
        self,
        windows: Windows,
        order: Iterable[Tensor],
        length: int,
        num_workers: int,
        failures: list[str],
    ) -> None:
        self.windows = windows
        self.order = order
        self.length = length
        self.num_workers = num_workers
        self.failures = failures

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return _Batches(self)


class _Batches(Iterator[Batch]):
    """One pass over the batches of a `WorkerLoader`."""

    def __init__(self, loader: WorkerLoader) -> None:
        self.loader = loader
        self.indices = iter(loader.order)
        self.process = os.getpid()
        self.pool: ProcessPoolExecutor | None = None
        self.open: deque[tuple[Tensor, Future[_Gathered] | None]] = deque()
        """The next batches: indices (B,), and the future if a worker loads them."""
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
            except Exception as error:
                # Whatever went wrong, in the worker or on the way from it, this process can do
                # without workers.
                self._take_over(error)
            else:
                return torch.from_numpy(inputs), torch.from_numpy(targets)
        return self.loader.windows[index]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        # A forked process inherits this object, but must not end its parent's workers.
        if self.pool is None or os.getpid() != self.process:
            return
        # Workers block the other signals (`signals_held`), and have nothing to save.
        for worker in self._workers():
            worker.kill()
        self.pool.shutdown(cancel_futures=True)
        self.pool = None

    def _workers(self) -> list[BaseProcess]:
        return processes_of(self.pool) if self.pool is not None else []

    def _start(self) -> None:
        arguments = (self.process, self.loader.windows)
        # A stop signal goes to the whole process group, but this process needs its workers until
        # the step is finished: they inherit the blocked signals. The pool starts them when the
        # first work is submitted.
        with signals_held(), main_not_run_again():
            try:
                self.pool = ProcessPoolExecutor(
                    self.loader.num_workers, initializer=_begin, initargs=arguments
                )
            except OSError as error:
                self._take_over(error)
            else:
                self._hand_out()

    def _hand_out(self) -> None:
        """Submit the next batches, so that the workers stay busy."""
        most = AHEAD * self.loader.num_workers if self.pool is not None else 1
        while len(self.open) < most:
            index = next(self.indices, None)
            if index is None:
                return
            work = None
            if self.pool is not None:
                try:
                    # An array, because a tensor would be sent by a thread of torch's own.
                    work = self.pool.submit(_gather, index.numpy())
                except (OSError, BrokenProcessPool) as error:
                    self._take_over(error)
            self.open.append((index, work))

    def _take_over(self, error: Exception) -> None:
        """Load the batches in this process from now on, and note why."""
        workers = self._workers()
        # The pipe of a dying worker breaks a moment before the process ends.
        ended = wait([worker.sentinel for worker in workers], timeout=1)
        died = [worker for worker in workers if worker.sentinel in ended]
        # The pool's own thread waits for the same processes, and only one waiter gets the exit
        # code: give that thread up to a second to store it.
        for _ in range(100):
            if all(worker.exitcode is not None for worker in died):
                break
            time.sleep(0.01)
        # Negative codes, signals, tell more than the exit codes of others that ended because of it.
        exit_code = min((worker.exitcode or 0 for worker in died), default=0)
        self.close()
        if not isinstance(error, BrokenProcessPool):
            reason = f"failed ({type(error).__name__}: {shorten(one_line(error), 160)})"
        elif exit_code < 0:
            reason = f"was {ended_by(-exit_code)}"
        else:
            reason = f"ended with exit code {exit_code}"
        self.loader.failures.append(reason)


_windows: Windows | None = None
"""In a worker process, the windows that it reads."""


def _begin(parent: int, windows: Windows) -> None:
    """Initialise a worker process."""
    global _windows
    end_with(parent)
    # A forked process has no copy of the parent's OpenMP threads, and may wait for them forever.
    torch.set_num_threads(1)
    _windows = windows


def _gather(index: np.ndarray) -> _Gathered:
    """Load a batch in a worker process.

    Arrays are sent through the pipe; tensors would need space in /dev/shm, which containers limit.
    """
    assert _windows is not None
    inputs, targets = _windows[index]
    return inputs.numpy(), targets.numpy()


_passes: WeakSet[_Batches] = WeakSet()


@atexit.register
def end_workers() -> None:
    """End the workers of abandoned passes, when this process ends."""
    for batches in list(_passes):
        batches.close()
