"""The checks: the same run twice, a run that is killed, the same run on another device."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firstlight.runs.run_config import RunConfig
from firstlight.runs.run_folder import RunFolder
from firstlight.verify.differences import compare
from firstlight.verify.kill_points import KillPoints
from firstlight.verify.process import Life
from firstlight.verify.run_state import PHASES
from firstlight.verify.runs import KilledRun, Runs
from firstlight.verify.settings import Settings

LOSSES = ("train/batch_loss", "train/loss", "val/loss")


@dataclass(frozen=True)
class Result:
    """What a check did and found; `held` is None if it was not made."""

    check: str
    done: str
    found: str
    held: bool | None


@dataclass
class Campaign:
    """Runs that were killed until `n_kills` were made, each compared with the one that was not."""

    runs: list[KilledRun]
    differences: list[str]
    """The first one of each run that was not the same."""
    equal: str = ""
    """What was equal in the others."""

    @property
    def kills_by_phase(self) -> dict[str, int]:
        """How often the run was killed in each phase."""
        counts = Counter(kill.phase for run in self.runs for kill in run.kills)
        return {phase: counts[phase] for phase in PHASES if counts[phase]}

    @property
    def n_kills(self) -> int:
        return sum(len(run.kills) for run in self.runs)

    @property
    def n_processes(self) -> int:
        return sum(run.processes for run in self.runs)

    @property
    def faults(self) -> list[str]:
        """Folders that could not be continued, and files left over."""
        unreadable = [fault for run in self.runs for fault in run.unreadable]
        return unreadable + [f"{run.folder.name}: {file} was left over" for run in self.runs for file in run.unfinished]

    @property
    def most_steps_lost(self) -> int:
        """Of one kill: steps that were logged and had to be made again."""
        return max((kill.steps_lost for run in self.runs for kill in run.kills), default=0)


def kill_and_continue(
    runs: Runs, straight: Path, whole: Life, *, n_kills: int, seed: int, kills_a_run: int, keep: bool = False
) -> Campaign:
    """Make runs, each killed up to `kills_a_run` times, until there were `n_kills`; compare each with `straight`.

    `whole` is the life of the process that made `straight`. Runs that are the same are removed, unless `keep`.
    """
    evaluated = {int(row["step"]) for row in RunFolder(straight).rows if row.get("val/loss")}
    every = runs.config.plain["callbacks"]["checkpoint"]["every_n_steps"]
    saved = evaluated | set(range(every, runs.steps + 1, every))
    points, campaign = KillPoints(whole, seed), Campaign([], [])
    while campaign.n_kills < n_kills and len(campaign.runs) < 10 * n_kills:
        most = min(kills_a_run, n_kills - campaign.n_kills)
        run = runs.killed(f"killed_{len(campaign.runs) + 1}", points, most, evaluated, saved)
        campaign.runs.append(run)
        comparison = compare(straight, run.folder)
        if comparison.is_same:
            campaign.equal = str(comparison)
            if not keep:
                shutil.rmtree(run.folder)
        else:
            campaign.differences.append(f"{run.folder.name}: {comparison}")
    return campaign


class Verification:
    """Makes the checks of `settings` on runs of `config` in the folder `work`."""

    def __init__(
        self,
        config: RunConfig,
        settings: Settings,
        *,
        work: Path,
        begin: Callable[..., int],
        go_on: Callable[..., int],
    ) -> None:
        self.config, self.settings, self.work = config, settings, work
        self.begin, self.go_on = begin, go_on

    def results(self) -> Iterator[Result]:
        """Make one check after another.

        Raises:
            ConfigError: the config was refused.
            RunError: a run failed that was not killed.
        """
        checks = self.settings.checks
        if "determinism" in checks or "kills" in checks:
            runs = self._runs({})
            straight, whole = runs.straight("straight")
            if "determinism" in checks:
                yield self._determinism(runs, straight)
            if "kills" in checks:
                yield self._kills(runs, straight, whole)
        if "devices" in checks:
            yield self._devices()

    def _runs(self, changes: dict[str, Any]) -> Runs:
        return Runs(self.config.changed(changes), self.work, begin=self.begin, go_on=self.go_on)

    def _determinism(self, runs: Runs, straight: Path) -> Result:
        again, _ = runs.straight("again", new_interpreter=True)
        comparison = compare(straight, again)
        return Result("determinism", "the same run twice", str(comparison), comparison.is_same)

    def _kills(self, runs: Runs, straight: Path, whole: Life) -> Result:
        settings = self.settings
        done = kill_and_continue(
            runs, straight, whole, n_kills=settings.kills, seed=settings.seed, kills_a_run=5, keep=settings.keep
        )
        phases = ", ".join(f"{n} {phase}" for phase, n in done.kills_by_phase.items())
        lost = f"at most {done.most_steps_lost} steps lost (saved every {settings.save_every_n_steps})"
        return Result(
            "kills",
            f"{done.n_kills} kills ({phases}), {len(done.runs)} run{'s' * (len(done.runs) > 1)}",
            "; ".join([*([*done.differences, *done.faults] or [done.equal]), lost]),
            not (done.differences or done.faults) and done.most_steps_lost <= settings.save_every_n_steps,
        )

    def _devices(self) -> Result:
        if not torch.accelerator.is_available():
            return Result("devices", "skipped", "this machine has no accelerator", None)
        device = torch.accelerator.current_accelerator()
        assert device is not None
        model = {"drop_rate": 0.0} if "drop_rate" in self.config.plain["model"] else {}  # devices draw other numbers
        precision = str(self.config.plain["trainer"].get("precision", "32-true")).replace("auto", "32-true")
        folders = []
        for name, accelerator in (("cpu", "cpu"), (device.type, "auto")):
            runs = self._runs({"model": model, "trainer": {"accelerator": accelerator, "precision": precision}})
            folders.append(runs.straight(f"on_{name}")[0])
        worst, where = largest_difference(*folders)
        found = (
            f"losses differ by {worst:.1e} of themselves at most ({where}; verify.tolerance={self.settings.tolerance})"
        )
        return Result(
            "devices",
            f"on the CPU and on {device.type}, in {precision}, without dropout",
            found,
            worst <= self.settings.tolerance,
        )


def largest_difference(one: Path, other: Path) -> tuple[float, str]:
    """The largest relative difference of a loss in two runs, and where it is; inf if they have other rows."""
    rows, twins = (RunFolder(run).rows for run in (one, other))
    if [row["step"] for row in rows] != [twin["step"] for twin in twins]:
        return float("inf"), "other steps"
    differences = [(0.0, "nowhere")]
    for row, twin in zip(rows, twins, strict=True):
        for name in LOSSES:
            if row.get(name):
                value, other_value = float(row[name]), float(twin[name])
                differences.append((abs(value - other_value) / abs(value), f"{name} of step {row['step']}"))
    return max(differences)
