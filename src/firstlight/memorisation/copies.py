"""Which parts of a sample stand word for word in a text, and where."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from firstlight.memorisation.automaton import SuffixAutomaton
from firstlight.memorisation.blocks import overlapping

SHORTEST = 4
"""Ids in the shortest run that is looked for; with a smaller n, n."""
FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], dtype=np.uint32)
"""Odd numbers by which the hash of `SHORTEST` ids multiplies them."""
LEAST_BITS, MOST_BITS, PER_GRAM = 16, 24, 64
"""Size of the table of hashes: so many places for each run of the sample, within these bounds."""


@dataclass(frozen=True)
class Copy:
    """A run of ids that is in the sample and in the text."""

    start: int
    """Place of its first id in the sample."""
    length: int
    place: int
    """Place of its first id in the text."""

    @property
    def end(self) -> int:
        """Place in the sample after its last id."""
        return self.start + self.length


@dataclass(frozen=True)
class Copies:
    """What a sample has in common with a text, word for word."""

    n: int
    n_grams: int
    """Runs of n ids in the sample."""
    copied: int
    """How many of them stand in the text."""
    runs: list[Copy]
    """The runs of n ids or more that stand in the text, none of them within another."""
    longest: Copy | None
    """The longest run, also if it is shorter than n; None if none has `SHORTEST` ids."""

    @property
    def share(self) -> float | None:
        """The share of the sample's n-grams that stand in the text; None if it has none."""
        return self.copied / self.n_grams if self.n_grams else None


def copies(sample: Sequence[int] | np.ndarray, text: Iterable[np.ndarray], n: int) -> Copies:
    """Find what of `sample` (S,) stands in `text`, whose ids come in arrays (N,) one after another.

    All of it is exact. Time is linear in S + N; memory is a block of the text, and about 600 bytes
    for each id of the sample. Of several equally long runs, or places of one, the first counts.

    Raises:
        ValueError: n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n ({n}) must be 1 or more")
    ids = np.asarray(sample, dtype=np.uint32)
    shortest = min(n, SHORTEST)
    lengths, places = _longest_runs(ids, text, n)
    n_grams = max(len(ids) - n + 1, 0)
    runs = _maximal(lengths, places, n)
    longest: Copy | None = None
    for run in _maximal(lengths, places, shortest):
        if longest is None or run.length > longest.length:
            longest = run
    # A run of `length` ids that ends here has the n-gram that ends here in it.
    copied = sum(length >= n for length in lengths)
    return Copies(n, n_grams, copied, runs, longest)


def _longest_runs(
    sample: np.ndarray, text: Iterable[np.ndarray], n: int
) -> tuple[list[int], list[int]]:
    """For each id of the sample, the longest run up to it that is in the text, and its place.

    Those of `n` ids or more are exact, and the longest of all. Runs of fewer than `SHORTEST` ids
    count as none, unless n is less.
    """
    shortest = min(n, SHORTEST)
    if len(sample) < shortest:
        return [0] * len(sample), [0] * len(sample)
    automaton = SuffixAutomaton(sample.tolist())
    length, table = shortest, _table(sample, shortest)
    n_read = 0
    # Each run that may be looked for below is whole in one block.
    for place, block in overlapping(text, min(n, len(sample))):
        # Nearly all of a text is passed over here, at the speed of numpy.
        hits = table[_hashes(block, length) >> _shift(table)]
        for first, end in _stretches(hits, length):
            # What overlaps the stretch before was read with it, and what touches it follows it.
            begin = max(place + first, n_read)
            if begin > n_read:
                automaton.restart()
            automaton.read(block[begin - place : end].tolist(), begin)
            n_read = max(n_read, place + end)
        # Of bytes four say little, and most of a text would be read: once a longer run is known,
        # shorter ones than that are of no interest.
        while 2 * length <= min(n, max(automaton.best)):
            length *= 2
            table = _table(sample, length)
    lengths, places = automaton.longest()
    return [length if length >= shortest else 0 for length in lengths], places


def _table(sample: np.ndarray, n: int) -> np.ndarray:
    """Which upper bits the hashes of the sample's n-grams have."""
    hashes = _hashes(sample, n)
    wanted_bits = (PER_GRAM * len(hashes)).bit_length()
    table = np.zeros(2 ** min(max(wanted_bits, LEAST_BITS), MOST_BITS), dtype=bool)
    table[hashes >> _shift(table)] = True
    return table


def _shift(table: np.ndarray) -> np.uint32:
    """By how many bits a hash is shifted to be a place of the table."""
    return np.uint32(33 - len(table).bit_length())


def _hashes(ids: np.ndarray, n: int) -> np.ndarray:
    """A hash of each n-gram of ids (N,): (N - n + 1,), uint32. Its upper bits are the best ones.

    n is at most `SHORTEST`, or that times a power of two.
    """
    size = min(n, SHORTEST)
    n_grams = max(len(ids) - size + 1, 0)
    found = np.zeros(n_grams, dtype=np.uint32)
    for number in range(size):
        found += ids[number : number + n_grams] * FACTORS[number]
    while size < n:
        found = found[:-size] * FACTORS[1] + found[size:]
        size *= 2
    return found


def _stretches(hits: np.ndarray, n: int) -> list[tuple[int, int]]:
    """The first and the end of each part of a block that n-grams, which begin at `hits`, cover."""
    begins = np.flatnonzero(hits)
    if len(begins) == 0:
        return []
    # Two n-grams that have no id between them are of one part.
    breaks = np.flatnonzero(np.diff(begins) > n)
    firsts = begins[np.concatenate([[0], breaks + 1])]
    ends = begins[np.concatenate([breaks, [len(begins) - 1]])] + n
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


def _maximal(lengths: list[int], places: list[int], shortest: int) -> list[Copy]:
    """The runs of at least `shortest` ids that are not within a longer one."""
    found: list[Copy] = []
    for here, length in enumerate(lengths):
        following = lengths[here + 1] if here + 1 < len(lengths) else 0
        # One id further it is one id longer: then this run is within that one.
        if length >= shortest and following != length + 1:
            found.append(Copy(here + 1 - length, length, places[here]))
    return found
