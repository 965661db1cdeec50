"""How many n-grams of a text stand in another one."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from firstlight.memorisation.blocks import overlapping

FACTORS = (0x9E3779B97F4A7C17, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779FB, 0xD6E8FEB86659FD93,
           0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3,
           0x1D8E4E27C47D124F, 0xEB44ACCAB455D167)  # fmt: skip
"""Odd numbers, one for each doubling of a hash's length and one for the last step.

Of each, one less has the factor 2 only once: of two texts that differ everywhere, as 0110 and 1001
do, a doubling loses one bit of the difference and no more."""
MOST_N = 2 ** (len(FACTORS) - 1)
"""Ids in the longest n-gram."""
LEAST_BITS, MOST_BITS, PER_GRAM = 16, 24, 16
"""Size of the table of hashes: so many places for each n-gram, within these bounds."""


@dataclass(frozen=True)
class Overlap:
    """The n-grams of a text that stand in another, each counted as often as it occurs."""

    n: int
    n_grams: int
    """Of the first text, as many as were looked for."""
    found: int
    """How many of them stand in the other one."""

    @property
    def share(self) -> float | None:
        """The share that stands in the other text; None if the first one has no n-gram."""
        return self.found / self.n_grams if self.n_grams else None


def overlap(
    text: Iterable[np.ndarray], other: Iterable[np.ndarray], n: int, *, every: int = 1
) -> Overlap:
    """Count the n-grams of `text` that stand in `other`; ids come in arrays one after another.

    Only the first of each `every` n-grams of `text` is looked for. Memory is 16 bytes for each of
    these, and a block of `other`. N-grams are compared by hashes of 64 bits: that one of A n-grams
    and one of B are taken for the same although they differ has a chance of about A B / 2^64.

    Raises:
        ValueError: n is not 1 to `MOST_N`.
    """
    if not 1 <= n <= MOST_N:
        raise ValueError(f"n ({n}) must be 1 to {MOST_N}")
    wanted, counts = np.unique(_every(text, n, every), return_counts=True)
    n_grams = int(counts.sum())
    if n_grams == 0:
        return Overlap(n, 0, 0)
    bits = min(max((PER_GRAM * len(wanted)).bit_length(), LEAST_BITS), MOST_BITS)
    shift = np.uint64(64 - bits)
    table = np.zeros(2**bits, dtype=bool)
    table[wanted >> shift] = True
    is_found = np.zeros(len(wanted), dtype=bool)
    for _, block in overlapping(other, n):
        hashes = hashes_of(block, n)
        # A look into the table is much faster than a search, and spares nearly all of them.
        hashes = hashes[table[hashes >> shift]]
        places = np.searchsorted(wanted, hashes)
        places[places == len(wanted)] = 0
        is_found[places[wanted[places] == hashes]] = True
    return Overlap(n, n_grams, int(counts[is_found].sum()))


def _every(text: Iterable[np.ndarray], n: int, every: int) -> np.ndarray:
    """The hashes of the n-grams at the places 0, `every`, 2 `every`, ... of a text."""
    parts = [np.empty(0, dtype=np.uint64)]
    for place, block in overlapping(text, n):
        parts.append(hashes_of(block, n)[-place % every :: every].copy())
    return np.concatenate(parts)


def hashes_of(ids: np.ndarray, n: int) -> np.ndarray:
    """A hash of each n-gram of ids (N,): (N - n + 1,), uint64.

    The hash of 2k ids is made of those of their halves, and that of n ids of the first and the last
    2^j of them, which may overlap: log2(n) steps.
    """
    if len(ids) < n:
        return np.empty(0, dtype=np.uint64)
    values = _mixed(ids.astype(np.uint64))
    length, step = 1, 0
    while 2 * length <= n:
        values = values[:-length] * np.uint64(FACTORS[step]) + values[length:]
        length, step = 2 * length, step + 1
    if length < n:
        rest = n - length
        values = values[:-rest] * np.uint64(FACTORS[-1]) + values[rest:]
    return _mixed(values)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Steele et al. 2014, "Fast splittable pseudorandom number generators": a bijection."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
