"""Measure how long `firstlight` takes to show help, and to finish a run's first step.

    .venv/bin/python benchmarks/startup.py [--rounds 5]

Each command is a process of its own; they take turns. The first round is reported apart, because it
reads from the disk what the system's page cache does not hold. To start with an empty cache, run
`echo 3 > /proc/sys/vm/drop_caches` as root.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from options import described

TRAIN = ("train", "output_dir=run", "trainer.log_every_n_steps=1", "trainer.max_steps=600")
COMMANDS = {
    "--help": ("--help",),
    "train --help": ("train", "--help"),
    "train, to its first step": TRAIN,
}
GOALS = {"--help": 1, "train --help": 1, "train, to its first step": 12}


def seconds(arguments: Sequence[str], folder: str) -> float:
    """Time a command to its end, or a run to the row of its first step in metrics.csv."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "firstlight", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        while process.poll() is None:
            if arguments is TRAIN and has_stepped(Path(folder, "run")):
                return time.perf_counter() - began
            time.sleep(0.005)
        assert process.returncode == 0 and arguments is not TRAIN, (
            process.stderr and process.stderr.read()
        )
        return time.perf_counter() - began
    finally:
        process.kill()
        process.communicate()


def has_stepped(run: Path) -> bool:
    """Whether a run that logs every step has made its first one."""
    try:
        # The header, the row of step 0 and that of step 1.
        return (run / "metrics.csv").read_bytes().count(b"\n") > 2
    except FileNotFoundError:
        return False


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more: the first is reported apart")
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, arguments in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                taken[name].append(seconds(arguments, folder))
    print("| firstlight ... | first, s | median of the others, s | goal, s |")
    print("| --- | ---: | ---: | ---: |")
    for name, (first, *others) in taken.items():
        print(f"| {name} | {first:.2f} | {statistics.median(others):.2f} | {GOALS[name]} |")


if __name__ == "__main__":
    main()
