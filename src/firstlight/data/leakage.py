"""What of a validation text stands in the training text, and what of it training never shows."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from firstlight.data.tokenizers.base import Tokenizer
from firstlight.data.windows import Windows
from firstlight.memorisation import Overlap, overlap

BYTES = 50
"""Of text in an n-gram, about, where n is not given: in tokens it depends on the vocabulary."""
LEAST_N, MOST_N = 2, 512
MOST_COMPARED = 2**20
"""N-grams of validation that are looked for; of a longer text they are spread evenly over it."""
SEARCHED = 10**7
"""Tokens of a training text that is searched without being asked for, in about a second."""


@dataclass(frozen=True)
class Leakage:
    """How far validation is of the same text as training."""

    n: int
    n_grams: int
    """Of validation, as many as were looked for."""
    found: int
    """How many of them stand in the training text."""
    every: int
    """Of how many n-grams of validation one was looked for; 1: all."""
    n_never: int
    """Tokens of validation whose id is nowhere in the training text."""
    n_tokens: int
    """Of validation."""

    @property
    def share(self) -> float | None:
        """The share of validation's n-grams in training; None if it is too short to have one."""
        return Overlap(self.n, self.n_grams, self.found).share

    @property
    def never_share(self) -> float:
        """The share of validation's tokens whose id is nowhere in the training text."""
        return self.n_never / max(self.n_tokens, 1)


def leakage_of(windows: dict[str, Windows], tokenizer: Tokenizer, n: int | None = None) -> Leakage:
    """Compare the validation text with the training text, in n-grams of `n` tokens.

    None: as many as have about `BYTES` bytes. Both texts are read twice.
    """
    training, validation = windows["train"], windows["val"]
    n_ids = tokenizer.encoding.n_vocab
    seen, wanted = (counts_of(part.chunks(), n_ids) for part in (training, validation))
    if n is None:
        n = tokens_of(BYTES, seen, tokenizer)
    every = -(-max(validation.n_tokens, 1) // MOST_COMPARED)
    found = overlap(validation.chunks(), training.chunks(), n, every=every)
    return Leakage(
        n=n,
        n_grams=found.n_grams,
        found=found.found,
        every=every,
        n_never=int(wanted[seen == 0].sum()),
        n_tokens=int(wanted.sum()),
    )


def counts_of(text: Iterable[np.ndarray], n_ids: int) -> np.ndarray:
    """Count how often each id occurs in a text: (n_ids,)."""
    counts = np.zeros(n_ids, dtype=np.int64)
    for part in text:
        counts += np.bincount(part, minlength=n_ids)
    return counts


def tokens_of(n_bytes: int, counts: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many tokens of a text, which has `counts` (V,) of each id, have about `n_bytes` bytes."""
    of_text = int(counts @ tokenizer.byte_lengths[: len(counts)].numpy())
    if of_text == 0:
        return MOST_N
    return min(max(round(n_bytes * int(counts.sum()) / of_text), LEAST_N), MOST_N)
