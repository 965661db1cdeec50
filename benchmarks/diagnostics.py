"""Measure what the diagnostics of docs/diagnostics.md cost, in turn with and without.

    .venv/bin/python benchmarks/diagnostics.py [--steps 60] [--rounds 5] [--only NAME] [override ...]

Each row of the table has one of them. A round trains the same steps without it and with it, one run
after the other, in an order that changes from round to round; they end with the same weights, which
is asserted. Seconds are those of the processor, over all steps and evaluations, so that other
programs on the machine matter little; the row has the median of the rounds, as a share of the run
without. The second figure is what its own functions took within those runs, by the wall clock: it
says more where the first is as small as the rounds differ. The config is the default experiment
with an evaluation after every 20 steps.
"""

import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from options import described, positive

from firstlight.commands.train import arguments
from firstlight.compose.compose import compose_config
from firstlight.config import build
from firstlight.metrics.parts import LossOfRange
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.callbacks.ema import WeightAverage
from firstlight.training.callbacks.layers import Layers
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit
from firstlight.training.nonfinite.guard import Guard
from firstlight.training.token_counts import TokenCounts

BASE = (
    "trainer.accelerator=cpu", "trainer.precision=32-true", "scheduler.warmup_steps=5",
    "callbacks.sample_generation.max_new_tokens=1", "~callbacks.plots", "trainer.eval_every_n_steps=20",
    "callbacks.throughput.peak_flops=1e12",
)  # fmt: skip
POSITION, COUNT = "loss_by_position", "loss_by_count"
Part = tuple[type, str]
DIAGNOSTICS: dict[str, tuple[tuple[str, ...], tuple[Part, ...]]] = {
    "loss by position": ((f"metrics=[default,{POSITION}]",), ((LossOfRange, "sums"),)),
    "loss by count": (
        (f"metrics=[default,{COUNT}]",),
        ((LossOfRange, "sums"), (TokenCounts, "add"), (TokenCounts, "of")),
    ),
    "layers, every 10th step": (
        ("callbacks=[default,layers]",),
        ((Layers, "on_before_optimizer_step"), (Layers, "on_train_batch_end")),
    ),
    "spikes": ((), ((Guard, "_judged"), (Guard, "_is_spike"))),
    "all of these": (
        (f"metrics=[default,{POSITION},{COUNT}]", "callbacks=[default,layers]"),
        (
            (LossOfRange, "sums"), (TokenCounts, "add"), (TokenCounts, "of"), (Guard, "_judged"),
            (Guard, "_is_spike"), (Layers, "on_before_optimizer_step"),
            (Layers, "on_train_batch_end"),
        ),
    ),
    "average, without its evaluations": (
        ("callbacks=[default,ema]",),
        ((WeightAverage, "on_train_batch_end"),),
    ),
}  # fmt: skip
"""Overrides, and the methods that do the work."""


@contextmanager
def timed(parts: tuple[Part, ...]):
    """Add up the seconds of these methods within the block, in the list that is yielded."""
    seconds = [0.0]

    def timing(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                seconds[0] += time.perf_counter() - start

        return call

    with ExitStack() as stack:
        for kind, name in parts:
            stack.enter_context(patch.object(kind, name, timing(getattr(kind, name))))
        yield seconds


@contextmanager
def without_spikes():
    """Within the block no step is judged."""
    nothing = torch.zeros(4, 2, dtype=torch.float64)
    with (
        patch.object(Guard, "_judged", lambda *_: nothing),
        patch.object(Guard, "_is_spike", lambda *_: False),
    ):
        yield


def trained(words: list[str]) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Seconds of the processor and of the wall clock of a run, and its weights."""
    plain = arguments(compose_config("train", words))
    with tempfile.TemporaryDirectory() as folder:
        built = build(plain | {"output_dir": f"{folder}/run"})
        start, wall = time.process_time(), time.perf_counter()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            fitted = fit(Experiment(**built), plain, [])
        seconds, wall = time.process_time() - start, time.perf_counter() - wall
        found = find_checkpoint(str(fitted.folder), best=False)
        return seconds, wall, load_checkpoint(found).state_dict


def compared(name: str, words: list[str], *, is_first: bool) -> tuple[float, float]:
    """The share that diagnostic `name` adds to a run, and that of its own methods, of one round."""
    overrides, parts = DIAGNOSTICS[name]

    def without() -> tuple[float, float, dict[str, torch.Tensor]]:
        with without_spikes():
            return trained(words)

    if is_first:
        before = without()
    with ExitStack() as stack:
        if (Guard, "_judged") not in parts:
            stack.enter_context(without_spikes())
        own = stack.enter_context(timed(parts))
        seconds, wall, weights = trained([*words, *overrides])
    if not is_first:
        before = without()
    for key, weight in before[2].items():
        assert torch.equal(weight, weights[key]), key
    return seconds / before[0] - 1, own[0] / wall


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--steps", type=positive, default=60)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--only", choices=list(DIAGNOSTICS), help="one row of the table")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| diagnostic | with and without | range of the rounds | its own functions |")
    print("| --- | ---: | ---: | ---: |")
    words = [*BASE, f"trainer.max_steps={options.steps}", *options.overrides]
    with tempfile.TemporaryDirectory() as folder, chdir(Path(folder)):
        trained(words)  # what is loaded and allocated once
        for name in [options.only] if options.only else DIAGNOSTICS:
            rounds = [compared(name, words, is_first=n % 2 == 0) for n in range(options.rounds)]
            shares, own = zip(*rounds, strict=True)
            print(
                f"| {name} | {statistics.median(shares):+.2%} | {min(shares):+.1%} to"
                f" {max(shares):+.1%} | {statistics.median(own):.3%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
