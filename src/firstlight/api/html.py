"""What a notebook shows of an object."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; texts in it are shown as they are, numbers with four significant digits."""
    # No style and no script: a notebook that is not trusted would not show them.
    lines = [_row("th", headings)] if headings else []
    for row in rows:
        lines.append(_row("td", map(_cell, row)))
    return f"<table>{''.join(lines)}</table>"


def paragraph(text: str) -> str:
    """A line of text."""
    return f"<p>{html.escape(text)}</p>"


def image(figure: "Figure", description: str) -> str:
    """A figure as a picture within the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    # Within the page, so that a saved notebook shows it on any machine.
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def _row(tag: str, cells: Iterable[str]) -> str:
    shown = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{shown}</tr>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    # int before float: a step must not become 1e+04.
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
