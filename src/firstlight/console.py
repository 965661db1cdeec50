"""Rich's console for text from elsewhere: it cannot steer the terminal, and is never markup."""

from typing import IO

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.measure import Measurement
from rich.segment import Segment

from firstlight.errors import printable_lines


class SafeConsole(Console):
    """A console that shows tables and lines as they are, with control characters as escapes."""

    def __init__(self, *, width: int | None = None, file: IO[str] | None = None) -> None:
        # [red] in a run's name is text, and 10 in it is not a number to be coloured. A notebook
        # gets lines of text, too, and not a picture of a terminal for each.
        super().__init__(highlight=False, markup=False, width=width, file=file, force_jupyter=False)
        self.push_render_hook(_MakePrintable())


class _MakePrintable(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(renderable) for renderable in renderables]


class _Printable:
    """Something to render, with its text made printable; Rich's control sequences stay."""

    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            if not segment.control:
                segment = Segment(printable_lines(segment.text), segment.style)
            yield segment

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        # Without it rich would measure this object, and not what is in it.
        return Measurement.get(console, options, self.renderable)
