"""Why a worker ended; tests/training/test_workers.py has what a run makes of it."""

import os
from concurrent.futures.process import BrokenProcessPool

import torch

from firstlight.data.loader import WorkerLoader, _Batches
from firstlight.data.windows import TensorWindows


class Worker:
    """A process that is over, and whose exit code another thread is only about to learn."""

    def __init__(self):
        self.sentinel, writer = os.pipe()
        os.close(writer)
        self.exit_codes = [None, None, -9]

    @property
    def exitcode(self):
        return self.exit_codes.pop(0) if len(self.exit_codes) > 1 else self.exit_codes[0]

    def kill(self):
        os.close(self.sentinel)


def test_the_exit_code_of_a_worker_that_has_just_died_is_waited_for(monkeypatch):
    failures = []
    windows = TensorWindows(torch.arange(9), context_length=2, stride=2)
    batches = iter(WorkerLoader(windows, [], 0, 1, failures))
    worker = Worker()
    monkeypatch.setattr(_Batches, "_workers", lambda self: [worker])
    batches._take_over(BrokenProcessPool())
    assert failures == ["was ended by SIGKILL, perhaps because memory ran out"]
