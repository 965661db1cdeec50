"""The checks: the same run twice, a run that is killed, the same run on another device."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from firstlight.config import argument
from firstlight.errors import counted
from firstlight.runs.run_config import RunConfig
from firstlight.runs.run_folder import RunFolder
from firstlight.verify.differences import compare_runs
from firstlight.verify.kill_points import KillPoints
from firstlight.verify.process import Life
from firstlight.verify.run_state import PHASES
from firstlight.verify.runs import Kill, KilledRun, Runs
from firstlight.verify.settings import VerifySettings

LOSSES = ("train/batch_loss", "train/loss", "val/loss")


@dataclass(frozen=True)
class CheckResult:
    """What a check did and found; `held` is None if it was not made."""

    check: str
    done: str
    found: str
    held: bool | None


@dataclass
class Campaign:
    """Killed runs, each compared with the one that was not killed."""

    runs: list[KilledRun] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    """The first difference of each run that differs."""
    equal: str = ""
    """What was compared in a run that does not differ."""

    @property
    def kills(self) -> list[Kill]:
        return [kill for run in self.runs for kill in run.kills]

    @property
    def kills_by_phase(self) -> dict[str, int]:
        """How often the run was killed in each phase."""
        counts = Counter(kill.phase for kill in self.kills)
        return {phase: counts[phase] for phase in PHASES if counts[phase]}

    @property
    def faults(self) -> list[str]:
        """Folders that could not be resumed, and leftover files."""
        faults = [fault for run in self.runs for fault in run.unreadable]
        for run in self.runs:
            faults += [f"{run.folder.name}: {file} was left over" for file in run.unfinished]
        return faults

    @property
    def most_steps_lost(self) -> int:
        """The most logged steps that one kill made the run repeat."""
        return max((kill.steps_lost for kill in self.kills), default=0)


def kill_and_resume(
    runs: Runs,
    straight: Path,
    whole: Life,
    *,
    n_kills: int,
    seed: int,
    kills_a_run: int,
    keep: bool = False,
) -> Campaign:
    """Kill runs `n_kills` times in all, resume them, and compare each with `straight`.

    `whole` is the life of the process that made `straight`. Runs without a difference are removed,
    unless `keep`.
    """
    # The steps at which files are written, from which the phase of a kill is told.
    evaluated = {int(row["step"]) for row in RunFolder(straight).rows if row.get("val/loss")}
    every = runs.config.plain["callbacks"]["checkpoint"]["every_n_steps"]
    saved = evaluated | set(range(every, runs.steps + 1, every))
    points = KillPoints(whole, seed)
    campaign = Campaign()
    # A run may end before a kill hits it: the number of runs has a limit.
    while len(campaign.kills) < n_kills and len(campaign.runs) < 10 * n_kills:
        most = min(kills_a_run, n_kills - len(campaign.kills))
        run = runs.killed(f"killed_{len(campaign.runs) + 1}", points, most, evaluated, saved)
        campaign.runs.append(run)
        comparison = compare_runs(straight, run.folder)
        if not comparison.is_same:
            campaign.differences.append(f"{run.folder.name}: {comparison}")
            continue
        campaign.equal = str(comparison)
        if not keep:
            shutil.rmtree(run.folder)
    return campaign


def check(config: RunConfig, settings: VerifySettings, work: Path) -> Iterator[CheckResult]:
    """Make the checks of `settings`, one after another, on runs of `config` in the folder `work`.

    Raises:
        ConfigError: the config was refused.
        RunError: a run failed that was not killed.
    """
    if "determinism" in settings.checks or "kills" in settings.checks:
        runs = Runs(config, work)
        straight, whole = runs.straight("straight")
        if "determinism" in settings.checks:
            # In a new interpreter: a forked one would share the seed of Python's hashes.
            again, _ = runs.straight("again", new_interpreter=True)
            comparison = compare_runs(straight, again)
            yield CheckResult(
                "determinism", "the same run twice", str(comparison), comparison.is_same
            )
        if "kills" in settings.checks:
            yield _kills(runs, straight, whole, settings)
    if "devices" in settings.checks:
        yield _devices(config, settings, work)


def _kills(runs: Runs, straight: Path, whole: Life, settings: VerifySettings) -> CheckResult:
    made = kill_and_resume(
        runs,
        straight,
        whole,
        n_kills=settings.kills,
        seed=settings.seed,
        kills_a_run=5,
        keep=settings.keep,
    )
    phases = ", ".join(f"{n} {phase}" for phase, n in made.kills_by_phase.items())
    n_runs = counted(len(made.runs), "run")
    wrong = made.differences + made.faults
    lost = f"at most {made.most_steps_lost} steps lost (saved every {settings.save_every_n_steps})"
    return CheckResult(
        "kills",
        f"{len(made.kills)} kills ({phases}), {n_runs}",
        "; ".join([*(wrong or [made.equal]), lost]),
        not wrong and made.most_steps_lost <= settings.save_every_n_steps,
    )


def _devices(config: RunConfig, settings: VerifySettings, work: Path) -> CheckResult:
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return CheckResult("devices", "skipped", "this machine has no accelerator", None)
    precision = argument(config.plain["trainer"], "precision").replace("auto", "32-true")
    # The same precision and no dropout: what is left are the devices' roundings.
    folders = []
    for name, accelerator in (("cpu", "cpu"), (device.type, "auto")):
        changes: dict[str, Any] = {"trainer": {"accelerator": accelerator, "precision": precision}}
        if "drop_rate" in config.plain["model"]:
            changes["model"] = {"drop_rate": 0.0}  # each device draws other random numbers
        folder, _ = Runs(config.changed(changes), work).straight(f"on_{name}")
        folders.append(folder)
    worst, where = largest_difference(*folders)
    return CheckResult(
        "devices",
        f"on the CPU and on {device.type}, in {precision}, without dropout",
        f"relative difference of losses at most {worst:.1e} ({where};"
        f" verify.tolerance={settings.tolerance})",
        worst <= settings.tolerance,
    )


def largest_difference(one: Path, other: Path) -> tuple[float, str]:
    """The largest relative difference of a loss in two runs, and where it is.

    It is inf if the runs logged different steps.
    """
    rows, twins = RunFolder(one).rows, RunFolder(other).rows
    if [row["step"] for row in rows] != [twin["step"] for twin in twins]:
        return float("inf"), "other steps"
    # So that max has something to take if no loss was logged.
    differences = [(0.0, "nowhere")]
    for row, twin in zip(rows, twins, strict=True):
        for name in LOSSES:
            if row.get(name):
                value, other_value = float(row[name]), float(twin[name])
                relative = abs(value - other_value) / abs(value)
                differences.append((relative, f"{name} of step {row['step']}"))
    return max(differences)
