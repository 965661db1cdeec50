"""What a text is, in a line: documents, bytes, duplicates, scripts."""

import unicodedata
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

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


class Survey:
    """What one reading of a text tells: its documents are given one after another, in blocks."""

    def __init__(self) -> None:
        # 16 bytes a document.
        self.lengths, self.hashes = array("q"), array("q")
        self.blank: set[int] = set()
        """The numbers of documents without text."""
        self.n_bytes = self.n_nul = 0

    def read(self, blocks: Iterable[str]) -> None:
        """Read the next document."""
        length, digest, has_text = 0, None, False
        for block in blocks:
            if not block:
                continue
            length += len(block)
            # isascii is a flag that Python keeps: most blocks need not be encoded to be counted.
            ascii_only = block.isascii()
            self.n_bytes += (
                len(block) if ascii_only else len(block.encode("utf-8", "surrogatepass"))
            )
            self.n_nul += block.count("\0")
            has_text = has_text or not block.isspace()
            # The hash of a document that comes in one block is that of the whole.
            digest = hash(block) if digest is None else hash((digest, hash(block)))
        if not has_text:
            self.blank.add(len(self.lengths))
        self.lengths.append(length)
        self.hashes.append(hash("") if digest is None else digest)

    @property
    def n_characters(self) -> int:
        """Of all documents."""
        return int(np.asarray(self.lengths).sum())

    @property
    def has_text(self) -> bool:
        """Whether one of the documents has text."""
        return len(self.blank) < len(self.lengths)

    def statistics(self, sample: "Sample") -> TextStatistics:
        """Say what the documents are; their scripts are those of `sample`."""
        n_different = len(np.unique(np.asarray(self.hashes)))
        return TextStatistics(
            n_documents=len(self.lengths),
            n_bytes=self.n_bytes,
            n_duplicates=len(self.lengths) - n_different,
            scripts=scripts_of("".join(sample.parts)),
            is_sample=not sample.is_all,
        )

    def shared_with_training(self, train_end: int) -> str:
        """Say how much of the text after its first `train_end` characters training has, too.

        "" if it is less than `LEAST_SHARED`. Only documents with exactly the same text are found.
        """
        lengths, hashes = np.asarray(self.lengths), np.asarray(self.hashes)
        is_beyond = lengths.cumsum() > train_end
        is_shared = np.isin(hashes[is_beyond], hashes[~is_beyond])
        n_shared, n_beyond = int(lengths[is_beyond][is_shared].sum()), int(lengths[is_beyond].sum())
        if n_shared < max(LEAST_SHARED * n_beyond, 1):
            return ""
        return (
            f"{counted(int(is_shared.sum()), 'document')} ({n_shared / n_beyond:.0%} of the text"
            " after training's)"
        )


class Sample:
    """Parts of a text at equal distances from each other, `most` characters at most.

    The text has `n_characters`, and is given block by block. All of it is kept if it has no more.
    """

    def __init__(self, n_characters: int, most: int, n_parts: int) -> None:
        self.is_all = n_characters <= most
        if self.is_all:
            n_parts, most = 1, n_characters
        self.firsts = [part * n_characters // n_parts for part in range(n_parts)]
        self.width = most // n_parts
        self.taken: list[list[str]] = [[] for _ in self.firsts]
        """Of each part, the pieces that its blocks have of it."""
        self.place = self.part = 0
        """Of the next block, and of the part that is taken next."""

    @property
    def parts(self) -> list[str]:
        """What was taken; a part may have characters of several documents."""
        return list(map("".join, self.taken))

    def add(self, block: str) -> None:
        """Take of the next block what belongs to the sample."""
        end = self.place + len(block)
        while self.part < len(self.firsts) and self.firsts[self.part] < end:
            first, last = self.firsts[self.part], self.firsts[self.part] + self.width
            self.taken[self.part].append(block[max(first - self.place, 0) : last - self.place])
            if last > end:
                break  # it goes on in the next block
            self.part += 1
        self.place = end


def of_scripts(n_characters: int) -> Sample:
    """A sample of a text that shows its scripts."""
    return Sample(n_characters, SAMPLE, PIECES)


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
