"""Rich's console for text that may be somebody else's: nothing in it steers the terminal, nothing is markup."""

from typing import IO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from firstlight.errors import printable_lines


class SafeConsole(Console):
    """Shows tables and lines as they are, with control characters made visible."""

    def __init__(self, *, width: int | None = None, file: IO[str] | None = None) -> None:
        super().__init__(highlight=False, markup=False, width=width, file=file)
        self.push_render_hook(_ShowControls())


class _ShowControls(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


class _Shown:
    """What is rendered, after its text has been made printable; Rich's own control sequences are no text."""

    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.renderable)
