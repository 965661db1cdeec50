"""How far the reading of a source is, in a terminal; elsewhere nothing."""

from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from firstlight.console import SafeConsole

PAUSE = 64
"""Documents between two looks at the clock."""


class ReadingBar:
    """A line at the bottom of a terminal, gone when the block ends."""

    def __init__(self, what: str) -> None:
        self.n_documents = self.n_bytes = self.n_tokens = 0
        self.progress = Progress(
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=SafeConsole(),
            transient=True,
            disable=not SafeConsole().is_terminal,
        )
        self.task = self.progress.add_task(what, total=None, status="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def read(self, n_bytes: int) -> None:
        """Count a document that was read."""
        self.n_documents += 1
        self.n_bytes += n_bytes
        if self.n_documents % PAUSE == 0:
            self._show()

    def wrote(self, n_tokens: int) -> None:
        """Count a document that was written."""
        self.n_tokens += n_tokens

    def _show(self) -> None:
        if self.progress.disable:
            return
        seconds = self.progress.tasks[0].elapsed or 1
        self.progress.update(
            self.task,
            status=f"{self.n_documents:,} documents  {self.n_bytes / 1e6:,.0f} MB"
            f"  {self.n_tokens:,} tokens  {self.n_bytes / 1e6 / seconds:,.1f} MB/s",
        )
