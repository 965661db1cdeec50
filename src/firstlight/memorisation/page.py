"""Samples with their copies as HTML that needs no network, no script and no server."""

import html
from collections.abc import Sequence

from firstlight.errors import shorten, visible
from firstlight.memorisation.marked import QUOTED, Marked

N_COLOURS = 4
STYLE = """\
:root { color-scheme: light dark; --text: #1b1f24; --dim: #5b6570; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --dim: #9aa4ae; --page: #16191d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  margin: 2rem auto; max-width: 50rem; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 2rem 0 .5rem; }
.dim { color: var(--dim); margin: 0; } ol { font-size: .9rem; margin-top: .3rem; }
mark { color: #1b1f24; border-radius: 2px; }
.copy-0 { background: #ffe08a; } .copy-1 { background: #9fdcf0; }
.copy-2 { background: #b4e3a5; } .copy-3 { background: #f2b8de; }
"""
"""Of the page; a page of another kind that takes `fragment` takes it as well."""


def page(samples: Sequence[Marked], title: str) -> str:
    """A whole page with one sample after another."""
    parts = "".join(map(fragment, samples))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Nothing in it is ever run or fetched, whatever a model has written.
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_escaped(title)}</h1>\n{parts}</body>\n</html>\n"
    )


def fragment(sample: Marked) -> str:
    """One sample: its text with its copies marked, how much that is, and where they come from."""
    text = _escaped(sample.prompt)
    for piece in sample.pieces:
        shown = _escaped(piece.text)
        if piece.number is not None:
            place = _escaped(sample.place_of(sample.copies.runs[piece.number]))
            shown = f'<mark class="copy-{piece.number % N_COLOURS}" title="{place}">{shown}</mark>'
        text += shown
    items = ""
    for number, (run, quote) in enumerate(zip(sample.copies.runs, sample.quotes, strict=True)):
        mark = f'<mark class="copy-{number % N_COLOURS}">{run.length} tokens</mark>'
        told = _escaped(f"{sample.place_of(run)}: {shorten(quote, QUOTED)}")
        items += f"<li>{mark}, {told}</li>\n"
    listed = f"<ol>\n{items}</ol>\n" if items else ""
    return f'<pre>{text}</pre>\n<p class="dim">{_escaped(sample.summary)}</p>\n{listed}'


def _escaped(text: str) -> str:
    """Text as HTML shows it; control characters, which HTML does not allow, as escapes."""
    return html.escape(visible(text))
