"""A text that is read block by block, each of its n-grams whole in one of them."""

from collections.abc import Iterable, Iterator

import numpy as np

BLOCK = 2**18
"""Ids that are looked at together: few enough for what is computed of them to stay in a cache."""


def overlapping(text: Iterable[np.ndarray], n: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the ids of `text` in blocks, with the place of each one's first id in the text.

    A block begins with the `n - 1` ids before it, so that each n-gram is in exactly one block.
    """
    tail, place = np.empty(0, dtype=np.uint32), 0
    for given in text:
        for first in range(0, len(given), BLOCK):
            part = given[first : first + BLOCK]
            # One type for all: files of tokens have uint16, and their products would overflow.
            block = np.concatenate([tail, part], dtype=np.uint32, casting="unsafe")
            yield place - len(tail), block
            place += len(part)
            tail = block[max(len(block) - n + 1, 0) :]
