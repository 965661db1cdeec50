"""Whole runs of one config: straight, or killed and continued until they are done."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstlight.errors import ConfigError, RunError
from firstlight.runs.run_config import RunConfig
from firstlight.runs.run_folder import RunFolder
from firstlight.verify.kill_points import KillPoints
from firstlight.verify.process import Life, run
from firstlight.verify.run_state import RunState, phase, read_state, unfinished

SLOWEST = 10
"""Times as long as the first run takes, and a minute, until a process counts as hung."""


@dataclass(frozen=True)
class Kill:
    """What a kill found, and cost: steps that were logged and have to be made again."""

    phase: str
    steps_lost: int


@dataclass
class KilledRun:
    """A run that was killed and continued. `unreadable` and `lost` are faults: folders that could not be continued, and
    checkpoints that were there before."""

    folder: Path
    kills: list[Kill] = field(default_factory=list)
    processes: int = 0
    unreadable: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Temporary files that were left at the end."""


class Runs:
    """Runs of `config`, all in its `output_dir`, so that they have the same config; moved to `work/NAME` when done.

    `begin(plain, stored)` trains in the process it is called in, `go_on(folder, stored)` continues the run in a folder;
    both return an exit code.
    """

    def __init__(self, config: RunConfig, work: Path, *, begin: Callable[..., int], go_on: Callable[..., int]) -> None:
        self.config, self.work, self.begin, self.go_on = config, work, begin, go_on
        self.folder = Path(config.plain["output_dir"])
        self.steps: int = config.plain["trainer"]["max_steps"]
        self.limit = float("inf")
        self.n_logs = 0

    def straight(self, name: str, *, new_interpreter: bool = False) -> tuple[Path, Life]:
        """Train without a kill; the folder, and how the process went.

        Raises:
            ConfigError: the config was refused.
            RunError: the run failed.
        """
        life = self._begin(new_interpreter=new_interpreter)
        if life.exit_code == 2:
            raise ConfigError(life.output.strip())
        if life.exit_code != 0:
            raise RunError(f"a run that was not killed ended with {life.exit_code}: see {life.log}\n{_tail(life)}")
        self.limit = SLOWEST * life.seconds + 60
        return self._moved(name), life

    def killed(self, name: str, points: KillPoints, n_kills: int, evaluated: set[int], saved: set[int]) -> KilledRun:
        """Train, killed up to `n_kills` times and continued each time, or begun again if there was no run yet."""
        result, state = KilledRun(self.work / name), RunState(exists=False)
        while True:
            continues, point = RunFolder(self.folder).is_run, None
            if len(result.kills) < n_kills:
                point = points.draw(share=1 - (state.checkpoint or 0) / self.steps, continues=continues)
            life = (self._go_on if continues else self._begin)(kill=point)
            points.learn(life, continues=continues)
            result.processes += 1
            before, state = state, read_state(self.folder)
            if state.damaged is not None:
                result.unreadable.append(state.damaged)
                break
            if (state.checkpoint or 0) < (before.checkpoint or 0):
                result.unreadable.append(f"the checkpoint of step {before.checkpoint} is gone")
                break
            if life.exit_code == 0 or (life.exit_code == 2 and state.checkpoint == self.steps):  # it is finished
                break
            if life.exit_code is not None:
                result.unreadable.append(f"it ended with {life.exit_code}: {_tail(life)}")
                break
            has_begun = any(kind == "row" for _, kind in life.changes)
            where = phase(state, has_begun=has_begun, steps=self.steps, evaluated=evaluated, saved=saved)
            result.kills.append(Kill(where, max((state.row or 0) - (state.checkpoint or 0), 0)))
        result.unfinished = [str(path.relative_to(self.folder)) for path in unfinished(self.folder)]
        self._moved(name)
        return result

    def _begin(self, **how: Any) -> Life:
        config = self.config
        return run(
            self.begin, config.plain, config.stored, folder=self.folder, log=self._log(), limit=self.limit, **how
        )

    def _go_on(self, **how: Any) -> Life:
        arguments = str(self.folder), self.config.stored
        return run(self.go_on, *arguments, folder=self.folder, log=self._log(), limit=self.limit, **how)

    def _log(self) -> Path:
        self.n_logs += 1
        return self.work / f"process_{self.n_logs}.log"

    def _moved(self, name: str) -> Path:
        target = self.work / name
        if self.folder.is_dir():
            self.folder.rename(target)
        return target


def _tail(life: Life) -> str:
    return "\n".join(life.output.strip().splitlines()[-3:])
