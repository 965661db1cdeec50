"""Bars that show how far a run is: in a terminal, and in a notebook."""

import html
import sys
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar(ABC):
    """Shows how many of `total` steps are done; drawn at most every `pause` seconds."""

    pause: float

    def __init__(self, total: int, completed: int) -> None:
        self.total, self.completed, self.status = total, completed, ""
        self.drawn = 0.0

    def show(self, completed: int, status: str | None = None) -> None:
        """Show `completed` steps; `status` is shown beside the bar from now on."""
        self.completed = completed
        self.status = self.status if status is None else status
        now = time.perf_counter()
        if now - self.drawn > self.pause or completed == self.total:
            self.drawn = now
            self.draw()

    @abstractmethod
    def draw(self) -> None:
        """Show the bar as it is now."""

    @abstractmethod
    def stop(self) -> None:
        """The run has ended."""


class TerminalBar(Bar):
    """A line at the bottom of a terminal, gone when the run has ended."""

    pause = 0.1

    def __init__(self, console: Console, total: int, completed: int) -> None:
        super().__init__(total, completed)
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        # transient: it is removed at the end, and the lines of the evaluations stay.
        self.progress = Progress(*columns, console=console, transient=True)
        self.task = self.progress.add_task("train", total=total, completed=completed, status="")
        self.progress.start()

    def draw(self) -> None:
        self.progress.update(self.task, completed=self.completed, status=self.status)

    def stop(self) -> None:
        self.progress.stop()


class NotebookBar(Bar):
    """One output of a cell, replaced while the run trains."""

    pause = 0.5

    def __init__(self, total: int, completed: int) -> None:
        super().__init__(total, completed)
        self.first, self.began = completed, time.perf_counter()
        # By name: IPython is there in a notebook, and no requirement of ours.
        display = import_module("IPython.display").display
        self.handle = display(self._mime(), raw=True, display_id=True)

    def draw(self) -> None:
        self.handle.update(self._mime(), raw=True)

    def stop(self) -> None:
        self.draw()

    def _mime(self) -> dict[str, Any]:
        elapsed = time.perf_counter() - self.began
        # Only the steps of this process have been timed, not those before a resume.
        made, left = self.completed - self.first, ""
        if made > 0 and self.completed < self.total:
            seconds = elapsed / made * (self.total - self.completed)
            left = f", {_clock(seconds)} left"
        words = f"{self.completed:,}/{self.total:,}  {self.status}  {_clock(elapsed)}{left}"
        page = (
            f'<progress value="{self.completed}" max="{self.total}"></progress>'
            f" {html.escape(words)}"
        )
        return {"text/plain": f"training {words}", "text/html": page}


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, Colab, VS Code)."""
    # IPython is not imported for this: where it was not, this is no notebook.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def bar_for(console: Console, total: int, completed: int) -> Bar | None:
    """The bar where this process shows what it prints; None where lines are all."""
    if in_notebook():
        return NotebookBar(total, completed)
    return TerminalBar(console, total, completed) if console.is_terminal else None
