"""The process from which trials are forked has imported all that they need, and computed nothing."""

import gc
import os
import sys
import threading
from contextlib import nullcontext

import torch

from firstlight.sweep import preloaded

LATE = "firstlight.training.loggers.tensorboard"
"""A module that a trial with the default config imports when that is checked."""


def test_what_trials_import_is_there_and_the_process_can_be_forked(monkeypatch):
    monkeypatch.setattr(preloaded, "suppress", lambda error: nullcontext())
    child = os.fork()
    if child == 0:
        is_right = False
        try:
            before = threading.active_count()
            sys.modules.pop(LATE, None)
            preloaded.prepare()
            is_right = (
                LATE in sys.modules
                and gc.get_freeze_count() > 10_000
                and threading.active_count() == before
                and not torch.cuda.is_initialized()
            )
        finally:
            os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
