"""Kill training (kill -9) at random points, resume it, and compare it with an uninterrupted run.

A model of 7,680 parameters trains for 24 steps in six configs, in turn. Each run is killed up to
five times, until all kills are made. Half of the points are spread evenly over the seconds of a
process, half come right after it changed a file, as in `firstlight verify`, whose code this uses.
The same seed draws the same points; what they hit depends on the clock.

    .venv/bin/python benchmarks/kills.py              # 100 kills: a few minutes on two cores
    .venv/bin/python benchmarks/kills.py --kills 20 --seed 7
"""

import logging
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from options import described
from rich import box
from rich.console import Console
from rich.table import Table

from firstlight.commands.train import arguments
from firstlight.compose.compose import compose_config
from firstlight.runs.run_config import RunConfig
from firstlight.training.process import start_server
from firstlight.verify.checks import Campaign, kill_and_resume
from firstlight.verify.command import TRAINING, modules
from firstlight.verify.run_state import PHASES
from firstlight.verify.runs import Runs

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
TINY = (
    "data=text", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16", "model.n_heads=2",
    "model.n_layers=1", "data.batch_size=8", "trainer.max_steps=24", "trainer.eval_every_n_steps=8",
    "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "callbacks.sample_generation.max_new_tokens=4",
    "callbacks.throughput.peak_flops=1e9",
)  # fmt: skip
COSINE = ("scheduler=warmup_cosine", "scheduler.warmup_steps=3")
CONFIGS = {
    "constant rate, saved every step": ("scheduler=constant", "callbacks.checkpoint.every_n_steps=1"),
    "2 workers, cosine, every 3 steps": ("data.num_workers=2", *COSINE, "callbacks.checkpoint.every_n_steps=3"),
    "ragged batches, every 5 steps": ("data.drop_last=false", *COSINE, "callbacks.checkpoint.every_n_steps=5"),
    "accumulation of 3, every 2 steps": (
        "trainer.accumulate_grad_batches=3", *COSINE, "callbacks.checkpoint.every_n_steps=2",
    ),
    "bf16-mixed, ragged, 2 workers, every step": (
        "trainer.precision=bf16-mixed", "data.drop_last=false", "data.num_workers=2", *COSINE,
        "callbacks.checkpoint.every_n_steps=1",
    ),
    "after evaluations alone": (*COSINE, "callbacks.checkpoint.every_n_steps=8"),
}  # fmt: skip


def campaign(
    name: str, overrides: tuple[str, ...], n_kills: int, seed: int, work: Path
) -> tuple[Campaign, int]:
    """Run the campaign of one config; also return the steps between its checkpoints."""
    folder = work / name.replace(" ", "_").replace(",", "")
    folder.mkdir()
    config = arguments(
        compose_config("train", [*TINY, *overrides, f"data.path={work / 'text.txt'}"])
    )
    config["output_dir"] = str(folder / "run")
    runs = Runs(RunConfig(config, config), folder)
    straight, whole = runs.straight("straight")
    every = config["callbacks"]["checkpoint"]["every_n_steps"]
    return kill_and_resume(runs, straight, whole, n_kills=n_kills, seed=seed, kills_a_run=5), every


def table_of(campaigns: dict[str, tuple[Campaign, int]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    everything = [campaign for campaign, _ in campaigns.values()]
    phases = {phase: sum(c.kills_by_phase.get(phase, 0) for c in everything) for phase in PHASES}
    runs, same = (sum(map(count, everything)) for count in (lambda c: len(c.runs), n_same))
    table.add_column("config", footer="all")
    table.add_column("kills", footer=str(sum(len(c.kills) for c in everything)), justify="right")
    for phase, n in phases.items():
        table.add_column(phase, footer=str(n), justify="right")
    table.add_column("processes", footer=str(sum(map(n_processes, everything))), justify="right")
    table.add_column("identical runs", footer=f"{same} of {runs}", justify="right")
    table.add_column("faults", footer=str(sum(len(c.faults) for c in everything)), justify="right")
    table.add_column("steps lost", footer="", justify="right")
    for name, (c, every) in campaigns.items():
        by_phase = [str(c.kills_by_phase.get(phase, 0)) for phase in PHASES]
        lost = f"{c.most_steps_lost} of {every}"
        runs_same = f"{n_same(c)} of {len(c.runs)}"
        table.add_row(
            name,
            str(len(c.kills)),
            *by_phase,
            str(n_processes(c)),
            runs_same,
            str(len(c.faults)),
            lost,
        )
    return table


def n_processes(c: Campaign) -> int:
    return sum(run.processes for run in c.runs)


def n_same(c: Campaign) -> int:
    return len(c.runs) - len(c.differences)


def main() -> int:
    parser = described(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    began, work = time.perf_counter(), Path(tempfile.mkdtemp(prefix="kills_"))
    (work / "text.txt").write_text(TEXT, encoding="utf-8")
    start_server([*TRAINING, *modules(arguments(compose_config("train", [*TINY, "data.path=x"])))])
    campaigns: dict[str, tuple[Campaign, int]] = {}
    for number, (name, overrides) in enumerate(CONFIGS.items()):
        left = args.kills - sum(len(c.kills) for c, _ in campaigns.values())
        n_kills = left // (len(CONFIGS) - number)
        campaigns[name] = campaign(name, overrides, n_kills, args.seed + number, work)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, seed"
        f" {args.seed}",
        end=", ",
    )
    console.print(f"{time.perf_counter() - began:.0f} s")
    console.print(table_of(campaigns))
    wrong = [text for c, _ in campaigns.values() for text in (*c.differences, *c.faults)]
    wrong += [
        f"{name}: {c.most_steps_lost} steps lost"
        for name, (c, n) in campaigns.items()
        if c.most_steps_lost > n
    ]
    print("\n".join(wrong or ["every run ended like the one that was never killed"]))
    if not wrong:
        shutil.rmtree(work)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
