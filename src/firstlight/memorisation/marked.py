"""A sample with what it has copied marked in its text: for a terminal, as data, as an HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from firstlight.errors import shorten
from firstlight.memorisation.copies import Copies, Copy
from firstlight.memorisation.words import in_words

STYLES = ("black on yellow", "black on cyan", "black on green", "black on magenta")
"""Of one copy after another, in turn."""
QUOTED = 60
"""Characters of a copy that the list below a text shows, in one line."""


@dataclass(frozen=True)
class Piece:
    """A part of a text that is of one copy, or of none."""

    text: str
    number: int | None
    """Of the copy among `Copies.runs`; None: it is not copied."""


@dataclass(frozen=True)
class Marked:
    """A continuation, what of it is copied, and the text it is copied from."""

    prompt: str
    pieces: list[Piece]
    copies: Copies
    quotes: list[str]
    """The text of each of `copies.runs`."""
    base_rate: float | None
    """The share of validation's n-grams that stand in the same text."""
    n_tokens: int
    """Of the text that was searched."""

    @property
    def summary(self) -> str:
        """How much is copied, in a line."""
        return in_words(self.copies, self.base_rate)

    def place_of(self, run: Copy) -> str:
        """Where a copy comes from, in words."""
        return (
            f"training tokens {run.place:,} to {run.place + run.length - 1:,}"
            f" of {self.n_tokens:,} ({run.place / self.n_tokens:.0%})"
        )


def marked(
    prompt: str,
    tokens: Sequence[bytes],
    found: Copies,
    *,
    base_rate: float | None,
    n_tokens: int,
    n_bytes: int | None = None,
) -> Marked:
    """Mark `found` in the text of `tokens`, the bytes of each of its ids.

    Of the text the first `n_bytes` are shown. A token may end inside a character: all of that is of
    the copy before it.
    """
    quotes: list[str] = []
    for run in found.runs:
        quotes.append(_decoded(b"".join(tokens[run.start : run.end])))
    pieces = _pieces(tokens, found.runs, n_bytes)
    return Marked(prompt, pieces, found, quotes, base_rate, n_tokens)


def _pieces(tokens: Sequence[bytes], runs: list[Copy], n_bytes: int | None) -> list[Piece]:
    data = b"".join(tokens)[:n_bytes]
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    found: list[Piece] = []
    shown = 0

    def show(end: int, number: int | None) -> None:
        nonlocal shown
        end = _at_character(data, end)
        if end > shown:
            found.append(Piece(_decoded(data[shown:end]), number))
            shown = end

    for number, run in enumerate(runs):
        # Two copies may share tokens: these are shown as the first one's.
        show(ends[run.start], None)
        show(ends[run.end], number)
    show(len(data), None)
    return found


def _at_character(data: bytes, place: int) -> int:
    """The first place from `place` on where no character is cut in two."""
    while place < len(data) and data[place] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        place += 1
    return min(place, len(data))


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def as_text(sample: Marked) -> Text:
    """The prompt, the continuation with its copies in colours, and a list of them."""
    text = Text(sample.prompt)
    for piece in sample.pieces:
        style = "" if piece.number is None else STYLES[piece.number % len(STYLES)]
        text.append(piece.text, style)
    text.append(f"\n\n{sample.summary}\n")
    for number, (run, quote) in enumerate(zip(sample.copies.runs, sample.quotes, strict=True)):
        text.append(f"{number + 1:>3}", STYLES[number % len(STYLES)])
        text.append(f"  {run.length} tokens, {sample.place_of(run)}: {shorten(quote, QUOTED)}\n")
    return text


def as_data(sample: Marked) -> dict[str, Any]:
    """What is copied, as plain data; places are counted in tokens, from 0."""
    found = sample.copies
    runs: list[dict[str, Any]] = []
    for run, quote in zip(found.runs, sample.quotes, strict=True):
        runs.append({"start": run.start, "length": run.length, "place": run.place, "text": quote})
    return {
        "n": found.n,
        "n_grams": found.n_grams,
        "share": found.share,
        "validation_share": sample.base_rate,
        "longest": found.longest.length if found.longest is not None else 0,
        "runs": runs,
    }
