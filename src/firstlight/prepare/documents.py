"""The documents of a source: which split each belongs to, and a hash that tells whether it changed.

Both follow from the text of a document alone, so that the same document always comes to the same
split, wherever it stands and however often.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Document(NamedTuple):
    """A text and what its hash decides; a tuple, because it is made quickly."""

    text: str
    split: str
    digest: bytes
    n_bytes: int


@dataclass(frozen=True)
class Ratios:
    """The shares of the documents in the splits; validation has the rest."""

    train: float
    test: float

    @property
    def splits(self) -> list[str]:
        """The splits that documents go to."""
        return ["train", "val", *(["test"] if self.test > 0 else [])]

    def split_of(self, digest: bytes) -> str:
        """Choose the split of a document by its hash."""
        place = int.from_bytes(digest[:8], "little") / 2**64
        if place < self.train:
            return "train"
        return "test" if place >= 1 - self.test else "val"


def hashed_documents(texts: Iterable[str], ratios: Ratios) -> Iterator[Document]:
    """Yield the documents of a source, in its order."""
    for text in texts:
        # JSON can spell half of a surrogate pair, but no reader lets it through: see documents.py.
        content = text.encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        yield Document(text, ratios.split_of(digest), digest, len(content))
