"""Lightning's profilers: where the time of a run goes, shown at its end and kept in its folder."""

from pathlib import Path
from typing import Literal

from lightning.pytorch.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from torch.profiler import schedule

ProfilerName = Literal["simple", "advanced", "pytorch"]
FOLDER = "profile"
"""In the run folder: the reports, and the traces of `pytorch`."""
SHOWN = 30
"""Lines of a report that are shown; `advanced` has thousands."""


def make_profiler(given: ProfilerName | Profiler | None) -> Profiler | None:
    """The profiler of that name, or `given` itself."""
    if given == "simple":
        return SimpleProfiler()
    if given == "advanced":
        return AdvancedProfiler()
    if given == "pytorch":
        # One trace of three batches in training, and one in evaluation. Lightning's default writes
        # megabytes every five batches, and reports only the last three.
        once = schedule(wait=1, warmup=1, active=3, repeat=1)
        return PyTorchProfiler(schedule=once, acc_events=True)
    return given


def keep_in(profiler: Profiler, run: Path) -> None:
    """Let `profiler` write into the folder of `run`, unless its config names another file."""
    if isinstance(profiler, PassThroughProfiler):  # Lightning's for a run without one
        return
    profiler.dirpath = profiler.dirpath or run / FOLDER
    if not profiler.filename:
        profiler.filename = type(profiler).__name__.removesuffix("Profiler").lower()


class Report:
    """What a profiler adds to its file in a run. The file of a resumed run has several reports."""

    def __init__(self, profiler: Profiler) -> None:
        self.folder = Path(profiler.dirpath or FOLDER)
        self.before = self._sizes()

    def shown(self) -> str:
        """The first lines of what was added, and where the rest is; "" if nothing was."""
        for file, size in self._sizes().items():
            if size > self.before.get(file, 0):
                added = file.read_bytes()[self.before.get(file, 0) :].decode(errors="replace")
                lines = [line.expandtabs().rstrip() for line in added.strip().splitlines()]
                shown = "\n".join(lines[:SHOWN])
                return f"\n{shown}\nprofile:      {file} ({len(lines)} lines)"
        return ""

    def _sizes(self) -> dict[Path, int]:
        return {file: file.stat().st_size for file in sorted(self.folder.glob("*.txt"))}
