"""What a text is, in a line: documents, bytes, duplicates, scripts."""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import counted

SAMPLE, PIECES = 2**20, 256
"""Of a longer text, the scripts of this many characters are counted, in this many pieces."""
MOST_SCRIPTS = 4
"""That are named; the others are counted together."""
LEAST_SHARED = 0.01
"""Of the text that is kept from training: less of it in training, such as headings, is usual."""
LEAST_SHARE = 0.005
"""Of the letters: scripts with less are among the others."""
_HAN = {"CJK", "KANGXI"}
_WIDTHS = ("FULLWIDTH", "HALFWIDTH")


@dataclass(frozen=True)
class TextStatistics:
    """What documents come to."""

    n_documents: int
    n_bytes: int
    """In UTF-8."""
    n_duplicates: int
    """Documents with the same text as one before them."""
    scripts: dict[str, float]
    """Share of the letters by script, the largest first."""
    is_sample: bool
    """Whether the scripts are those of a sample."""

    def __str__(self) -> str:
        parts = [counted(self.n_documents, "document"), counted(self.n_bytes, "byte")]
        if self.n_duplicates:
            parts.append(counted(self.n_duplicates, "duplicate"))
        named = {name: share for name, share in self.scripts.items() if share >= LEAST_SHARE}
        shown = dict(list(named.items())[:MOST_SCRIPTS])
        rest = 1 - sum(shown.values())
        if self.scripts and rest >= LEAST_SHARE:
            shown["other"] = rest
        if shown:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in shown.items())
            parts.append(f"letters: {shares}{' (of a sample)' if self.is_sample else ''}")
        return "; ".join([", ".join(parts[:2]), *parts[2:]])


def statistics_of(documents: list[str]) -> TextStatistics:
    """Count `documents`; for the scripts a sample is looked at, spread over all of them."""
    n_bytes = 0
    for document in documents:
        # isascii is a flag that Python keeps: most documents need not be encoded to be counted.
        ascii_only = document.isascii()
        n_bytes += len(document) if ascii_only else len(document.encode("utf-8", "surrogatepass"))
    n_different = len(np.unique(_hashes(documents)))
    n_characters = sum(map(len, documents))
    return TextStatistics(
        n_documents=len(documents),
        n_bytes=n_bytes,
        n_duplicates=len(documents) - n_different,
        scripts=scripts_of("".join(_sample(documents, n_characters))),
        is_sample=n_characters > SAMPLE,
    )


def shared_with_training(documents: list[str], train_end: int) -> str:
    """Say how much of the text after its first `train_end` characters training has, too.

    "" if it is less than `LEAST_SHARED`. Only documents with exactly the same text are found.
    """
    hashes = _hashes(documents)
    lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
    is_beyond = lengths.cumsum() > train_end
    is_shared = np.isin(hashes[is_beyond], hashes[~is_beyond])
    n_shared, n_beyond = int(lengths[is_beyond][is_shared].sum()), int(lengths[is_beyond].sum())
    if n_shared < max(LEAST_SHARED * n_beyond, 1):
        return ""
    return (
        f"{counted(int(is_shared.sum()), 'document')} ({n_shared / n_beyond:.0%} of the text after"
        " training's)"
    )


def _hashes(documents: list[str]) -> NDArray[np.int64]:
    """8 bytes a document; two texts with one hash are practically impossible."""
    return np.fromiter(map(hash, documents), dtype=np.int64, count=len(documents))


def _sample(documents: list[str], n_characters: int) -> Iterator[str]:
    """Pieces of the documents, `SAMPLE` characters at most, at equal distances from each other."""
    if n_characters <= SAMPLE:
        yield from documents
        return
    ends = list(accumulate(map(len, documents)))
    for piece in range(PIECES):
        at = piece * n_characters // PIECES
        wanted = SAMPLE // PIECES
        number = bisect_right(ends, at)
        while wanted > 0 and number < len(documents):
            document = documents[number]
            start = max(at - (ends[number] - len(document)), 0)
            part = document[start : start + wanted]
            yield part
            wanted -= len(part)
            number += 1


def scripts_of(text: str) -> dict[str, float]:
    """The share of each script among the letters of `text`, the largest first."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    # Counted by code point: names are looked up once for each, not for each letter.
    counts = np.bincount(points.astype(np.int64))
    found: dict[str, int] = {}
    for point in np.flatnonzero(counts):
        character = chr(point)
        if character.isalpha():
            script = _script_of(character)
            found[script] = found.get(script, 0) + int(counts[point])
    total = sum(found.values())
    by_count = sorted(found, key=lambda script: (-found[script], script))
    return {script: found[script] / total for script in by_count}


def _script_of(letter: str) -> str:
    """The first word of its name in Unicode, which is its script for nearly all letters."""
    # Python has no property for it: unicodedata knows names, such as "LATIN SMALL LETTER A".
    first, _, rest = unicodedata.name(letter, "other").partition(" ")
    if first in _WIDTHS:
        first = rest.partition(" ")[0]
    return "Han" if first in _HAN else first.capitalize()
