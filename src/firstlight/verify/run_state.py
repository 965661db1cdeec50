"""What the files of a run tell, in whatever state a kill has left them."""

from dataclasses import dataclass
from pathlib import Path

from firstlight.checkpoints.find import CHECKPOINTS, checkpoints_of
from firstlight.errors import ConfigError
from firstlight.runs.run_folder import RunFolder
from firstlight.sources import find_checkpoint, load_checkpoint

PHASES = ("start-up", "step", "step or evaluation", "sampling", "saving", "end")


@dataclass(frozen=True)
class RunState:
    """Steps of the newest row, sample and checkpoint, None if there is none."""

    exists: bool
    row: int | None = None
    sample: int | None = None
    checkpoint: int | None = None
    damaged: str | None = None
    """What is wrong with that checkpoint."""
    is_saving: bool = False
    """Whether a checkpoint has been begun."""


def read_state(run: Path) -> RunState:
    """The state of a run folder, which need not exist."""
    if not run.is_dir():
        return RunState(exists=False)
    rows = RunFolder(run).rows
    samples = RunFolder(run).samples(range(10**18))  # of whatever step
    # The checkpoint is read whole, as a resumed run does: a damaged one must not go unnoticed.
    step = damaged = None
    if checkpoints_of(run):
        try:
            step = load_checkpoint(find_checkpoint(str(run), best=False)).step
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
    """Temporary files and folders among the checkpoints."""
    return sorted((run / CHECKPOINTS).glob(".*"))


def phase(
    state: RunState, *, has_begun: bool, steps: int, evaluated: set[int], saved: set[int]
) -> str:
    """In which of `PHASES` a process was killed, as far as the files tell.

    `has_begun`: the process wrote a row. `evaluated` and `saved` are the steps after which a run is
    evaluated and saved; the row of an evaluated step is written after its evaluation.
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
