"""Whole runs of one config: straight, or killed and resumed until they are done."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstlight.config import build
from firstlight.errors import ConfigError, RunError
from firstlight.interpolation import UNUSED, from_environment
from firstlight.output import say
from firstlight.overrides import setting
from firstlight.runs.run_config import RunConfig
from firstlight.runs.run_folder import RunFolder
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit
from firstlight.training.process import run_command
from firstlight.verify.kill_points import KillPoints
from firstlight.verify.process import KillPoint, Life, run_process
from firstlight.verify.run_state import RunState, phase, read_state, unfinished

SLOWEST = 10
"""A process is presumed hung after this many times the duration of the first run, plus a minute."""


def begin_run(plain: dict[str, Any], stored: dict[str, Any]) -> int:
    """In a process of its own: train; return the exit code."""
    try:
        fit(Experiment(**build(plain)), stored, [])
    except ConfigError as error:
        say(str(error), stderr=True)
        return 2
    return 0


def resume_run(folder: str, stored: dict[str, Any]) -> int:
    """In a process of its own: resume the run in `folder` as a user would; return the exit code."""
    given_again = [f"{key}={text}" for key, text in from_environment(stored) if key not in UNUSED]
    # Through the command line: what a user does after a kill is what is verified.
    return run_command(["train", setting("resume", folder), *given_again])


@dataclass(frozen=True)
class Kill:
    """The phase that a kill hit, and the logged steps that have to be repeated."""

    phase: str
    steps_lost: int


@dataclass
class KilledRun:
    """A run that was killed and resumed."""

    folder: Path
    kills: list[Kill] = field(default_factory=list)
    processes: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Faults: why the folder could not be resumed, or that a checkpoint is gone."""
    unfinished: list[str] = field(default_factory=list)
    """Temporary files that were left at the end."""


class Runs:
    """Makes runs of `config`, each moved to `work/NAME` when it is done.

    All of them train in the same `output_dir`, so that they have the same config.
    """

    def __init__(self, config: RunConfig, work: Path) -> None:
        self.config, self.work = config, work
        self.folder = Path(config.plain["output_dir"])
        self.steps: int = config.plain["trainer"]["max_steps"]
        self.limit = float("inf")

    def straight(self, name: str, *, new_interpreter: bool = False) -> tuple[Path, Life]:
        """Train without a kill; return the folder, and the life of the process.

        Raises:
            ConfigError: the config was refused.
            RunError: the run failed.
        """
        life = self._process(new_interpreter=new_interpreter)
        if life.exit_code == 2:
            raise ConfigError(life.output.strip())
        if life.exit_code != 0:
            raise RunError(
                f"a run that was not killed ended with {life.exit_code}: see"
                f" {life.log}\n{_tail(life)}"
            )
        # Only now is it known how long a run takes.
        self.limit = SLOWEST * life.seconds + 60
        return self._moved(name), life

    def killed(
        self, name: str, points: KillPoints, n_kills: int, evaluated: set[int], saved: set[int]
    ) -> KilledRun:
        """Train, killed up to `n_kills` times; each time the run is resumed, or begun again."""
        result = KilledRun(self.work / name)
        checkpoint = 0  # step of the newest one
        # One process after another, until one ends without being killed or something is wrong.
        while True:
            continues = self._can_be_resumed
            point = None
            if len(result.kills) < n_kills:
                point = points.draw(share=1 - checkpoint / self.steps, continues=continues)
            life = self._process(kill=point)
            points.learn(life, continues=continues)
            result.processes += 1
            state = read_state(self.folder)
            fault = self._fault(life, state, checkpoint)
            if fault:
                result.unreadable.append(fault)
                break
            if life.exit_code is not None:
                break
            # Killed: note the phase, and how many logged steps the next process repeats.
            checkpoint = state.checkpoint or 0
            has_begun = any(kind == "row" for _, kind in life.changes)
            hit = phase(
                state, has_begun=has_begun, steps=self.steps, evaluated=evaluated, saved=saved
            )
            result.kills.append(Kill(hit, max((state.row or 0) - checkpoint, 0)))
        result.unfinished = [str(path.relative_to(self.folder)) for path in unfinished(self.folder)]
        self._moved(name)
        return result

    def _fault(self, life: Life, state: RunState, checkpoint: int) -> str | None:
        """What is wrong after a process whose run had a checkpoint of step `checkpoint` before."""
        if state.damaged is not None:
            return state.damaged
        if (state.checkpoint or 0) < checkpoint:
            return f"the checkpoint of step {checkpoint} is gone"
        # Killed after its last checkpoint a run is finished: to resume it is refused.
        is_refused = life.exit_code == 2 and state.checkpoint == self.steps
        if life.exit_code in (0, None) or is_refused:
            return None
        return f"it ended with {life.exit_code}: {_tail(life)}"

    @property
    def _can_be_resumed(self) -> bool:
        return RunFolder(self.folder).is_run

    def _process(self, *, kill: KillPoint | None = None, new_interpreter: bool = False) -> Life:
        """Resume the run if there is one, else begin it."""
        watched = functools.partial(
            run_process,
            folder=self.folder,
            log=self.work / f"process_{1 + len(list(self.work.glob('process_*.log')))}.log",
            kill=kill,
            limit=self.limit,
            new_interpreter=new_interpreter,
        )
        if self._can_be_resumed:
            return watched(resume_run, str(self.folder), self.config.stored)
        return watched(begin_run, self.config.plain, self.config.stored)

    def _moved(self, name: str) -> Path:
        target = self.work / name
        if self.folder.is_dir():
            # Moved, so that every run can train in the same output_dir: it is part of the config,
            # which must be equal to be compared.
            self.folder.rename(target)
        return target


def _tail(life: Life) -> str:
    return "\n".join(life.output.strip().splitlines()[-3:])
