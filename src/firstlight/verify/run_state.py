"""What the files of a run tell, in whatever state a kill has left them."""

from dataclasses import dataclass
from pathlib import Path

from firstlight.checkpoints.find import CHECKPOINTS
from firstlight.errors import ConfigError
from firstlight.runs.run_folder import RunFolder
from firstlight.sources import find_checkpoint, load_checkpoint

PHASES = ("start-up", "step", "step or evaluation", "sampling", "saving", "end")


@dataclass(frozen=True)
class RunState:
    """Steps of the newest row, sample and checkpoint; `damaged` is what is wrong with that checkpoint."""

    exists: bool
    row: int | None = None
    sample: int | None = None
    checkpoint: int | None = None
    damaged: str | None = None
    is_saving: bool = False
    """A checkpoint has been begun."""


def read_state(run: Path) -> RunState:
    """The state of a run folder, there or not."""
    if not run.is_dir():
        return RunState(exists=False)
    rows = RunFolder(run).rows
    samples = RunFolder(run).samples(range(10**18))
    step, damaged = None, None
    try:
        path = find_checkpoint(str(run), best=False)
    except ConfigError:  # none yet
        pass
    else:
        try:
            step = load_checkpoint(path).step
        except ConfigError as error:
            damaged = str(error)
    return RunState(
        exists=True,
        row=int(rows[-1]["step"]) if rows else None,
        sample=max(samples, default=None),
        checkpoint=step,
        damaged=damaged,
        is_saving=bool(unfinished(run)),
    )


def unfinished(run: Path) -> list[Path]:
    """What was begun below the checkpoints and not finished."""
    return sorted((run / CHECKPOINTS).glob(".*"))


def phase(state: RunState, *, has_begun: bool, steps: int, evaluated: set[int], saved: set[int]) -> str:
    """In which of `PHASES` a process was killed, as far as files tell.

    `has_begun`: it wrote a row. `evaluated` and `saved` are the steps at which a run is; the row of an evaluated step
    is written after its evaluation.
    """
    row = state.row
    if not has_begun or row is None:
        return "start-up"
    if state.checkpoint == steps:
        return "end"
    if state.is_saving:
        return "saving"
    if row in evaluated and state.sample is not None and state.sample < row:
        return "sampling"
    if row in saved and state.checkpoint != row:
        return "saving"
    return "step or evaluation" if row + 1 in evaluated else "step"
