"""Runs beside each other."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.api import html, words
from firstlight.api.call import command
from firstlight.api.composed import composed
from firstlight.api.run import Run
from firstlight.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WIDTH = 100
"""Columns of a comparison that is printed: those of a notebook's cell."""


class Comparison:
    """What `firstlight.compare` has found; printed, it is the table of the command line."""

    def __init__(self, found: dict[str, Any], page: Path | None) -> None:
        self.found = found
        """All of it as plain data, as in compare.json."""
        self.page = page
        """compare.html, in a folder with compare.png and compare.json; None if `out` is None."""

    @property
    def configs(self) -> list[dict[str, Any]]:
        """The configs, best first.

        Each has the `settings` in which they differ, `mean` and `spread` of the metric over its
        seeds, and the `verdict`.
        """
        return self.found["configs"]

    @property
    def runs(self) -> list[Run]:
        """The runs, those of the best config first."""
        return [Run(run["folder"]) for run in self.found["runs"]]

    @property
    def best(self) -> Run:
        """A run of the best config."""
        return self.runs[0]

    @property
    def notes(self) -> list[str]:
        """How far the comparison can be trusted."""
        return self.found["notes"]

    def __str__(self) -> str:
        from firstlight.compare.table import tables
        from firstlight.console import SafeConsole

        # Through the console of the command line, so that what runs have written cannot steer a
        # terminal here either.
        stream = io.StringIO()
        console = SafeConsole(width=WIDTH, file=stream)
        for part in (*self.notes, *tables(self.found, WIDTH)):
            console.print(part)
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __repr__(self) -> str:
        return f"Comparison({', '.join(run.folder.name for run in self.runs)})"

    def plot(self) -> "Figure":
        """The curves of the runs, and the mean of each config."""
        from firstlight.api.figure import shown
        from firstlight.compare.plot import comparison_figure

        return shown(comparison_figure(self.found))

    def _repr_html_(self) -> str:
        rows = []
        for config in self.configs:
            n_seeds = len(config["seeds"])
            rows.append(
                [config["label"], n_seeds, config["mean"], config["spread"], config["verdict"]]
            )
        metric = self.found["settings"]["metric"]
        notes = "".join(html.paragraph(note) for note in self.notes)
        headings = ["config", "seeds", metric, "spread", "verdict"]
        return notes + html.table(headings, rows) + html.image(self.plot(), f"curves of {metric}")


@command
def compare(*runs: words.Path, **settings: Any) -> Comparison:
    """Compare runs, or the trials of a sweep: which is best, and is it more than chance?

    `runs` are runs, their folders, folders of sweeps, or "last"; among them may be overrides as on
    the command line. `settings` are the keys of `firstlight compare`, e.g.
    `metric="val/perplexity"`, `out=None`.

    Raises:
        Error: a run does not exist, or they cannot be compared.
    """
    from firstlight.compare.command import compared

    if not runs and "runs" not in settings:
        raise ConfigError("compare: name the runs, or a sweep, e.g. compare(run, other)")
    for run in runs:
        if isinstance(run, list | tuple):
            raise ConfigError("compare: give the runs one after another: compare(*runs)")
    # Strings with a key among the runs are overrides, as on the command line: its parser tells them
    # from folders.
    with composed("compare", runs, settings) as config:
        return Comparison(*compared(config, show=_nothing))


def _nothing(found: dict[str, Any]) -> None:
    """The object that is returned shows it."""
