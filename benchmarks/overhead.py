"""Measure the overhead of a step of `fit` over a plain loop that trains the same.

    .venv/bin/python benchmarks/overhead.py [--steps 300] [--rounds 5] [--profile] [override ...]

They run in turn in one process, with the same model, windows, dropout, loss, optimizer, clipping,
check for nan and schedule; it is asserted that they end with the same weights. Milliseconds are
wall-clock means over a run's steps after the first 20, and the median of the rounds. `--profile`
prints where the time of `fit` goes (cProfile) instead of the table.
"""

import cProfile
import io
import math
import os
import pstats
import statistics
import tempfile
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from options import described, positive
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from firstlight.commands.train import arguments
from firstlight.compose.compose import compose_config
from firstlight.config import build
from firstlight.data.datamodule import TextDataModule
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit

WARM_UP = 20
BASE = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "output_dir=run", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "data.eval_batches=1", "trainer.eval_every_n_steps=1000000",
    "callbacks.sample_generation.max_new_tokens=1", "~callbacks.plots", "callbacks.throughput.peak_flops=1e12",
)  # fmt: skip
TINY = (
    "model.context_length=16",
    "model.emb_dim=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "data.batch_size=8",
)
SIZES = {
    "tiny (1 layer of 16, 8 x 16 tokens)": TINY,
    "model=nano data.batch_size=1": ("data.batch_size=1",),
}


class Clock(pl.Callback):
    """Records the time after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def milliseconds(times: list[float]) -> float:
    # The last step includes an evaluation.
    return 1e3 * (times[-2] - times[WARM_UP]) / (len(times) - 2 - WARM_UP)


def by_fit(plain: dict[str, Any], *, bare: bool) -> tuple[float, dict[str, torch.Tensor]]:
    clock, built = Clock(), build(plain)
    watching = {"callbacks": built["callbacks"] | {"clock": clock}}
    if bare:
        watching = {"callbacks": {"clock": clock}, "logger": {}}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        fitted = fit(Experiment(**(built | watching)), plain, [])
    # Without checkpoints the last weights are kept as the run's model.
    weights = fitted.folder / "model.safetensors"
    if not bare:
        weights = find_checkpoint(str(fitted.folder))
    return milliseconds(clock.times), load_checkpoint(weights).state_dict


def by_loop(plain: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    built = build(plain)
    data: TextDataModule = built["data"](tokenizer=built["tokenizer"], order=built["order"])
    data.setup()
    pl.seed_everything(plain["seed"], verbose=False)
    module = EvaluationModule(built["model"](), data.tokenizer.byte_lengths).train()
    optimizer, clip = built["optimizer"](module.model), plain["trainer"]["gradient_clip_val"]
    steps, peak = plain["trainer"]["max_steps"], plain["optimizer"]["lr"]
    schedule = LambdaLR(
        optimizer, lambda step: built["scheduler"].lr(step, max_steps=steps, peak=peak) / peak
    )
    order = data.order.train_batches(
        len(data.windows["train"]),
        batch_size=data.batch_size,
        shuffle=data.shuffle,
        drop_last=data.drop_last,
        start=0,
    )
    times, parameters = [], list(module.model.parameters())
    for step, indices in zip(range(steps), order, strict=False):
        batch = data.windows["train"][indices]
        data.order.seed_batch(step, 0, torch.device("cpu"))
        loss = module.cross_entropy(batch).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        assert math.isfinite(float(norm)) and math.isfinite(float(loss.detach()))
        optimizer.step()
        schedule.step()
        times.append(time.perf_counter())
    return milliseconds(times), module.model.state_dict()


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(
        "| size | loop, ms a step | fit, bare | overhead | fit, with logs, bar, checkpoints |"
        " overhead |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("text.txt").write_text(
            "The lamp was lit, and nobody on the quay had seen who did it. " * 2000
        )
        for name, size in SIZES.items():
            words = [*BASE, *size, f"trainer.max_steps={options.steps}", *options.overrides]
            plain = arguments(compose_config("train", words))
            if options.profile:
                profiler = cProfile.Profile()
                profiler.runcall(by_fit, plain, bare=False)
                pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
                return
            rounds = []
            for _ in range(options.rounds):
                loop, weights = by_loop(plain)
                bare, twin = by_fit(plain, bare=True)
                full, other = by_fit(plain, bare=False)
                # Of two tied matrices only one is saved, so `weights` may have more keys.
                for key in twin:
                    assert torch.equal(weights[key], twin[key]), key
                    assert torch.equal(twin[key], other[key]), key
                rounds.append((loop, bare, full))
            loop, bare, full = (statistics.median(r[i] for r in rounds) for i in range(3))
            over = [statistics.median(r[i] - r[0] for r in rounds) for i in (1, 2)]
            print(
                f"| {name} | {loop:.2f} | {bare:.2f} | {over[0]:.2f} | {full:.2f} |"
                f" {over[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
