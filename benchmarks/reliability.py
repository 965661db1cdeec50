"""Measure what exactness and safety cost, as a share of a step of the default experiment.

With them: a seed for each batch, checks for nan, signals, guarded callbacks, the end of a step.
Without them: all of that is patched out. Runs take turns in one process; a round is one run of
each, timed from its second step to its last, without evaluations. The table also has the cost of a
checkpoint, by default one in `INTERVAL` steps.

    .venv/bin/python benchmarks/reliability.py --rounds 3
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from options import described, positive
from rich.console import Console
from rich.table import Table

from firstlight.checkpoints.folder_io import CheckpointFolderIO
from firstlight.cli import main
from firstlight.data.order import SeededOrder
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

STEPS, INTERVAL = 40, 100
SETTINGS = [
    f"trainer.max_steps={STEPS}", "trainer.eval_every_n_steps=100000", "data.eval_batches=1", "logger=[]",
    "callbacks=[checkpoint]", "trainer.accelerator=cpu",
]  # fmt: skip


def nothing(*_: Any) -> None:
    """Replaces what is patched out."""


def plain_clipping(module: PretrainingModule, optimizer: Any, **_: Any) -> None:
    module.grad_norm = torch.nn.utils.clip_grad_norm_(module.model.parameters(), 1.0)


def seconds_a_step(without: bool) -> float:
    """Time one run, without its first step, which allocates."""
    times: list[float] = []
    began = PretrainingModule.on_train_batch_start

    def timed(self: PretrainingModule, *arguments: Any) -> None:
        times.append(time.perf_counter())
        began(self, *arguments)

    with contextlib.ExitStack() as patched, tempfile.TemporaryDirectory() as folder:
        patched.enter_context(contextlib.redirect_stdout(io.StringIO()))
        patched.enter_context(mock.patch.object(PretrainingModule, "on_train_batch_start", timed))
        if without:
            for place, name, other in (
                (SeededOrder, "seed_batch", nothing),
                (Trainer, "step_complete", nothing),
                (PretrainingModule, "configure_gradient_clipping", plain_clipping),
            ):
                patched.enter_context(mock.patch.object(place, name, other))
            for name in ("watch_callback", "watch_logger"):
                patched.enter_context(mock.patch(f"firstlight.training.trainer.{name}"))
            patched.enter_context(mock.patch("firstlight.training.fit.keep_best"))
        assert main(["train", *SETTINGS, f"output_dir={folder}/run"]) == 0
    return (times[-1] - times[1]) / (len(times) - 2)


def price(call: Callable[[], Any], n: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@contextlib.contextmanager
def saves() -> Iterator[list[float]]:
    """Collect the seconds that each checkpoint takes to write."""
    seconds: list[float] = []
    real = CheckpointFolderIO.save_checkpoint

    def timed(self: CheckpointFolderIO, *arguments: Any, **more: Any) -> None:
        start = time.perf_counter()
        real(self, *arguments, **more)
        seconds.append(time.perf_counter() - start)

    with mock.patch.object(CheckpointFolderIO, "save_checkpoint", timed):
        yield seconds


def run(rounds: int) -> None:
    # The first run of a process is slower.
    seconds_a_step(without=False)
    with saves() as seconds:
        pairs = [
            (seconds_a_step(without=False), seconds_a_step(without=True)) for _ in range(rounds)
        ]
    ratio = statistics.median(a / b for a, b in pairs)
    step, save = statistics.median(b for _, b in pairs), statistics.median(seconds)
    table = Table("what", "seconds", "share of a step")
    table.add_row(f"a step without ({rounds} rounds of {STEPS} steps, median)", f"{step:.4f}", "")
    table.add_row(
        "a step with", f"{statistics.median(a for a, _ in pairs):.4f}", f"{ratio - 1:+.2%}"
    )
    order = SeededOrder(seed=1)
    seeding = price(lambda: order.seed_batch(7, 0, torch.device("cpu")), 2000)
    table.add_row("seeding a batch", f"{seeding:.6f}", f"{seeding / step:+.4%}")
    table.add_row(
        f"a checkpoint, one in {INTERVAL} steps", f"{save:.4f}", f"{save / INTERVAL / step:+.2%}"
    )
    table.add_row("all of it", "", f"{ratio - 1 + save / INTERVAL / step:+.2%}")
    Console(width=100).print(table)
    print(
        "rounds:",
        ", ".join(f"{a / b - 1:+.2%}" for a, b in pairs),
        f"; threads: {torch.get_num_threads()}",
    )


if __name__ == "__main__":
    parser = described(__doc__)
    parser.add_argument("--rounds", type=positive, default=7)
    run(parser.parse_args().rounds)
