"""A call of the API is a guest: what belongs to the process is as before, and decides no number."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from tiny_api import numbers

import firstlight
from firstlight import processes
from firstlight.private import resolvers_of_omegaconf

BACKENDS = torch.backends


def state() -> dict:
    """What a call must leave as it was."""
    lightning = logging.getLogger("lightning.pytorch")
    return {
        "environment": dict(os.environ),
        "arguments": list(sys.argv),
        "folder": Path.cwd(),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "main module": sys.modules["__main__"],
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "hooks": (sys.excepthook, threading.excepthook, warnings.formatwarning),
        "warnings": list(warnings.filters),
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "Lightning's logger": (lightning.level, list(lightning.handlers), lightning.propagate),
        "start method": multiprocessing.get_start_method(),
        "matplotlib": dict.__getitem__(matplotlib.rcParams, "backend"),
        "Hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "resolvers": dict(resolvers_of_omegaconf()),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "products": torch.get_float32_matmul_precision(),
        "products on a CPU": BACKENDS.mkldnn.matmul.fp32_precision,
        "determinism": torch.get_deterministic_debug_mode(),
        "cudnn": (BACKENDS.cudnn.deterministic, BACKENDS.cudnn.benchmark),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),
        "Python's numbers": random.getstate(),
        "what was found in the environment": dict(processes._known.taken),
    }


@pytest.fixture
def unusual(monkeypatch, tmp_path):
    """Settings of a process whose owner has set everything to something else."""
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "3", "A": "b"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(resolvers_of_omegaconf(), "text", str.upper)
    monkeypatch.delitem(resolvers_of_omegaconf(), "stored")
    monkeypatch.setattr(sys, "argv", ["my_script.py", "--an-option"])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    handler = logging.FileHandler(tmp_path / "my.log", mode="w")
    logging.root.addHandler(handler)
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with contextlib.ExitStack() as undone, torch.random.fork_rng():
        undone.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("error", message="nothing says this")
        for number in before:
            signal.signal(number, lambda *_: None)
        log.setLevel(logging.DEBUG)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True, warn_only=True)
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        yield handler
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
    log.setLevel(level)
    logging.root.removeHandler(handler)
    handler.close()
    for number, one in before.items():
        signal.signal(number, one)


@pytest.mark.filterwarnings("default")
def test_a_call_leaves_the_process_as_it_was_and_its_settings_decide_no_number(
    tiny, trained, unusual, tmp_path
):
    modes = (torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"))
    with modes[0], modes[1], modes[2]:
        before = state()
        run = firstlight.train(**tiny, output_dir="run")
        model = firstlight.load(run)
        with pytest.raises(firstlight.Error):
            firstlight.train(model="nanno")
        after = state()
    assert {name for name in before if before[name] != after[name]} == set()
    with modes[2]:
        text = model.generate("The lamp", max_new_tokens=4, decoding="greedy")
        assert model.loss("The lamp") == pytest.approx(firstlight.load(trained).loss("The lamp"))
    assert numbers(run) == numbers(trained)
    usual = firstlight.load(trained).generate("The lamp", max_new_tokens=4, decoding="greedy")
    assert text == usual
    logging.root.warning("still written")
    assert "still written" in (tmp_path / "my.log").read_text()


def test_the_memory_of_the_process_is_its_own(tiny, monkeypatch):
    import firstlight.training.memory.allocation as allocation

    def never() -> bool:
        raise AssertionError("mallopt cannot be undone")

    monkeypatch.setattr(allocation, "keep_freed_memory", never)
    firstlight.train(**tiny)


def test_in_a_thread_and_several_at_a_time(tiny, trained):
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(firstlight.train, **tiny, output_dir=name) for name in ("a", "b")]
        for run in begun:
            assert numbers(run.result()) == numbers(trained)


def test_under_a_running_event_loop(tiny, trained):
    async def main() -> list[firstlight.Run]:
        here = firstlight.train(**tiny, output_dir="here")
        return [here, await asyncio.to_thread(firstlight.train, **tiny, output_dir="there")]

    for run in asyncio.run(main()):
        assert numbers(run) == numbers(trained)


def test_a_resolver_of_the_users_is_the_users_own():
    code = """
from omegaconf import OmegaConf
OmegaConf.register_new_resolver("text", str.upper)
import firstlight
assert firstlight.compose(name="a${b}")["name"] == "a${b}"  # which takes our resolver
assert OmegaConf.create({"key": "${text:abc}"}).key == "ABC"
assert not OmegaConf.has_resolver("stored")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_costs_nothing_until_something_is_used():
    code = """
import sys, firstlight
assert {"train", "load", "Run"} <= set(dir(firstlight))
assert not {"torch", "hydra", "lightning", "omegaconf"} & set(sys.modules), sys.modules
import firstlight.compose.compose  # packages that have the name of a function
assert callable(firstlight.train) and firstlight.train is firstlight.train
names = {}
exec("from firstlight import *", names)
assert {"train", "load", "Run"} <= set(names) and "sys" not in {*names, *dir(firstlight)}
assert "torch" not in sys.modules
try:
    firstlight.trian
except AttributeError as error:
    assert "trian" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
