"""What belongs to the whole process, and stays as its owner has set it: a notebook or a script."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from firstlight import processes
from firstlight.private import resolvers_of_omegaconf

_LOCK = threading.RLock()
"""Held by the thread whose call has the process-wide state: others wait for its end."""
_MATMUL = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""Parts of torch.backends that have a precision of their own."""


@contextmanager
def kept() -> Iterator[None]:
    """Within the block, what decides numbers is as in a fresh process.

    After it, everything that belongs to the process is as it was before.

    Threads take turns, since they share all this. torch's number of threads is the user's: it is
    recorded with a run, as on the command line.
    """
    # The order counts: Lightning is imported within `_warnings`, as it changes the filters, and
    # before `_logging`, which must know its loggers.
    with _LOCK, ExitStack() as changed:
        changed.enter_context(_environment())
        changed.enter_context(_signal_handlers())
        changed.enter_context(_warnings())
        changed.enter_context(_resolvers())
        import lightning.pytorch  # noqa: F401 (its loggers are then known, and its filters undone)

        changed.enter_context(_logging())
        changed.enter_context(_torch_settings())
        changed.enter_context(_random_numbers())
        yield


@contextmanager
def _environment() -> Iterator[None]:
    variables, arguments = dict(os.environ), sys.argv
    hook = threading.excepthook
    try:
        with processes.undone():
            yield
    finally:
        # Not os.environ = ...: libraries hold references to the mapping itself.
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        for name, value in variables.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        sys.argv, threading.excepthook = arguments, hook


@contextmanager
def _signal_handlers() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no other can set handlers
        yield
        return
    # All of them: libraries set handlers that we do not know of.
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # None is a handler that was not set by Python, which cannot be set from here either.
            if handler is not None and signal.getsignal(number) != handler:
                with suppress(OSError):  # SIGKILL and SIGSTOP
                    signal.signal(number, handler)


@contextmanager
def _warnings() -> Iterator[None]:
    # catch_warnings restores the filters alone, and Lightning replaces this function when it is
    # imported.
    format_warning = warnings.formatwarning
    try:
        with warnings.catch_warnings():
            yield
    finally:
        warnings.formatwarning = format_warning


@contextmanager
def _resolvers() -> Iterator[None]:
    """What `${...}` stands for in OmegaConf: ours, then those that there were."""
    resolvers = resolvers_of_omegaconf()
    before = dict(resolvers)
    from firstlight.interpolation import register_resolvers  # it registers ours as well

    register_resolvers()
    try:
        yield
    finally:
        # In place: OmegaConf has the one dictionary.
        resolvers.clear()
        resolvers.update(before)


@contextmanager
def _logging() -> Iterator[None]:
    loggers = [logging.getLogger()]
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            loggers.append(logger)
    before = []
    for logger in loggers:
        before.append((logger, logger.level, list(logger.handlers), logger.propagate))
    try:
        yield
    finally:
        for logger, level, handlers, propagate in before:
            logger.setLevel(level)
            # In place, and nothing is closed: these handlers are the user's.
            logger.handlers[:] = handlers
            logger.propagate = propagate


@contextmanager
def _torch_settings() -> Iterator[None]:
    """torch's own defaults, by which the command line computes."""
    import torch

    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    determinism = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with ExitStack() as modes:
        modes.enter_context(_matmul_precision())
        try:
            torch.set_default_dtype(torch.float32)
            torch.set_deterministic_debug_mode("default")
            torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
            # A notebook may call us within no_grad, inference_mode or autocast: training would
            # fail, or compute other numbers than on the command line.
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    modes.enter_context(torch.autocast(device, enabled=False))
            modes.enter_context(on_cpu())
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_deterministic_debug_mode(determinism)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            if torch.get_num_threads() != n_threads:
                torch.set_num_threads(n_threads)


def on_cpu() -> AbstractContextManager[Any]:
    """Within the block, tensors are made on the CPU unless something else is said."""
    import torch

    if torch.get_default_device().type == "cpu":
        return nullcontext()  # within the other every call of torch costs more
    return torch.device("cpu")


@contextmanager
def _matmul_precision() -> Iterator[None]:
    """Within the block, matrix products have full precision.

    torch has two ways to set it, and reads one back only if the other was not used.
    """
    import torch

    legacy = None
    # Raised where the precision was set in torch's newer way, part by part.
    with suppress(RuntimeError):
        legacy = torch.get_float32_matmul_precision()
    if legacy == "highest":
        yield
        return
    parts: list[tuple[Any, str]] = []
    for name in _MATMUL:
        backend, _, operation = name.partition(".")
        part = getattr(getattr(torch.backends, backend), operation)
        parts.append((part, part.fp32_precision))
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
        for part, precision in parts:
            if part.fp32_precision != precision:
                part.fp32_precision = precision


@contextmanager
def _random_numbers() -> Iterator[None]:
    """The generators of torch, numpy and Python."""
    import torch
    from lightning.pytorch.utilities.seed import isolate_rng

    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with isolate_rng():
            yield
    finally:
        if mps is not None:
            torch.mps.set_rng_state(mps)
