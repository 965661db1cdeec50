"""Measure how fast a sweep makes the trials of a tiny model, beside a command for each of them.

    .venv/bin/python benchmarks/sweeps.py [--trials 12] [--steps 20] [--rounds 2] [--python OTHER]

A round is one sweep, and then `firstlight train` as a new process for each of its trials. With
`--python` the sweep of another installation, such as that of an earlier commit, takes its turn as
well. Every trial has the default callbacks and loggers. Reported are medians over the rounds: the
seconds of all trials together, and of one trial from its beginning to its first step (over the
trials after the first).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from options import described
from startup import has_stepped

TINY = (
    *("model.emb_dim=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=16"),
    *("data.batch_size=4", "scheduler.warmup_steps=2", "trainer.log_every_n_steps=1"),
)
POLL = 0.005
"""Seconds between two looks at the log of a trial."""


@dataclass
class Taken:
    """Seconds of a round: of all trials, and of each after the first to its first step."""

    whole: float
    starts: list[float] = field(default_factory=list)


def rates(n_trials: int) -> list[str]:
    return [f"{(n + 1) * 1e-3:.3f}" for n in range(n_trials)]


def one_by_one(python: str, options: argparse.Namespace, folder: Path) -> Taken:
    """Make the trials with a command each."""
    began, starts = time.perf_counter(), []
    for n, rate in enumerate(rates(options.trials)):
        run, start = folder / str(n), time.perf_counter()
        words = [*TINY, f"trainer.max_steps={options.steps}", f"optimizer.lr={rate}"]
        process = subprocess.Popen(
            [python, "-m", "firstlight", "train", *words, f"output_dir={run}"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and not has_stepped(run):
            time.sleep(POLL)
        starts.append(time.perf_counter() - start)
        assert process.wait() == 0
    return Taken(time.perf_counter() - began, starts[1:])


def swept(python: str, options: argparse.Namespace, folder: Path) -> Taken:
    """Make the trials with one sweep."""
    began, stepped = time.perf_counter(), {}
    words = [*TINY, f"trainer.max_steps={options.steps}", f"output_dir={folder / 'sweep'}"]
    values = ",".join(rates(options.trials))
    process = subprocess.Popen(
        [python, "-um", "firstlight", "train", "-m", *words, f"optimizer.lr={values}"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            for run in (folder / "sweep").glob("[0-9]*"):
                if run.name not in stepped and has_stepped(run):
                    stepped[run.name] = time.perf_counter()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    # A line tells when a trial ends; the next one begins then.
    begins = [time.perf_counter() for line in process.stdout if " done in " in line]
    assert process.wait() == 0
    taken = time.perf_counter() - began
    over.set()
    watcher.join()
    assert len(begins) == len(stepped) == options.trials
    first_steps = sorted(stepped.values())
    return Taken(
        taken, [step - begin for begin, step in zip(begins, first_steps[1:], strict=False)]
    )


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--python", action="append", default=[], metavar="OTHER")
    options = parser.parse_args()
    ways = {"a sweep": (swept, sys.executable)}
    for other in options.python:
        ways[f"a sweep of {other}"] = (swept, other)
    ways["a command for each trial"] = (one_by_one, sys.executable)
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (make, python) in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                taken[name].append(make(python, options, Path(folder)))
    print(f"{options.trials} trials of {options.steps} steps, {options.rounds} rounds\n")
    print("| made by | all trials, s | times as long as a sweep | to the first step, s |")
    print("| --- | ---: | ---: | ---: |")
    reference = statistics.median(one.whole for one in taken["a sweep"])
    for name, rounds in taken.items():
        whole = statistics.median(one.whole for one in rounds)
        start = statistics.median(start for one in rounds for start in one.starts)
        print(f"| {name} | {whole:.1f} | {whole / reference:.2f} | {start:.2f} |")


if __name__ == "__main__":
    main()
