"""Batches gathered by worker processes, whose failure never interrupts a step."""

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
from firstlight.process_group import end_with, ended_by, signals_held

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, (B, T) each."""
_Gathered = tuple[np.ndarray, np.ndarray]
"""The same as a worker sends them."""
AHEAD = 2
"""Batches that each worker is given ahead of time."""


class WorkerLoader:
    """The batches whose indices `order` yields, gathered by `num_workers` processes.

    If a worker fails, the reason is added to `failures`, no more are started, and this process
    gathers the remaining batches. They are the same ones, so that a run can finish its step, save
    and end.
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
        """The next batches in order: indices (B,), and the work on them if a worker has it."""
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
            except Exception as error:  # in the worker, or on the way from it
                self._take_over(error)
            else:
                return torch.from_numpy(inputs), torch.from_numpy(targets)
        return self.loader.windows[index]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        if (
            self.pool is None or os.getpid() != self.process
        ):  # a forked process must not end its parent's workers
            return
        for worker in self._workers():  # they ignore other signals, and have nothing to lose
            worker.kill()
        self.pool.shutdown(cancel_futures=True)
        self.pool = None

    def _workers(self) -> list[BaseProcess]:
        """The processes of the pool, a private attribute until Python 3.14 brings
        kill_workers()."""
        if self.pool is None or self.pool._processes is None:
            return []
        return list(self.pool._processes.values())

    def _start(self) -> None:
        arguments = (self.process, self.loader.windows)
        with signals_held():  # the pool starts its processes when work is handed out
            try:
                self.pool = ProcessPoolExecutor(
                    self.loader.num_workers, initializer=_begin, initargs=arguments
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
                    work = self.pool.submit(
                        _gather, index.numpy()
                    )  # one of torch's threads would send a tensor
                except (OSError, BrokenProcessPool) as error:
                    self._take_over(error)
            self.open.append((index, work))

    def _take_over(self, error: Exception) -> None:
        """Gather the batches in this process from now on."""
        workers = self._workers()
        ended = wait(
            [worker.sentinel for worker in workers], timeout=1
        )  # a dying worker may take a moment
        died = [worker for worker in workers if worker.sentinel in ended]
        for _ in range(100):
            if all(worker.exitcode is not None for worker in died):
                break
            time.sleep(
                0.01
            )  # the pool's own thread is waiting for the process, too, and will know its exit code
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
"""In a worker: the windows it gathers from."""


def _begin(parent: int, windows: Windows) -> None:
    """Called in a worker when it starts."""
    global _windows
    end_with(parent)
    torch.set_num_threads(1)  # after a fork, several threads may deadlock
    _windows = windows


def _gather(index: np.ndarray) -> _Gathered:
    """Called in a worker: a batch as arrays, which are sent whole; tensors would need space in
    /dev/shm.
    """
    assert _windows is not None
    inputs, targets = _windows[index]
    return inputs.numpy(), targets.numpy()


_passes: WeakSet[_Batches] = WeakSet()


@atexit.register
def end_workers() -> None:
    """End the workers of passes that were abandoned."""
    for batches in list(_passes):
        batches.close()
