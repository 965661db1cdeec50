"""What a vocabulary is learned from, where a text is larger than memory."""

import heapq
from collections.abc import Iterable

from firstlight.data.tokenizers.base import MOST_LEARNED
from firstlight.prepare.documents import Document


def sampled(documents: Iterable[Document], most: int = MOST_LEARNED) -> list[str]:
    """Choose training documents evenly by their hashes, `most` characters at most; all, if fewer.

    The same documents give the same sample, in their order.
    """
    kept: list[tuple[int, int, str]] = []
    """The negated hash, so that the heap gives up the largest; the position; the text."""
    size = 0
    for number, document in enumerate(documents):
        if document.split != "train":
            continue
        # Other bytes of the hash than those that decide the split.
        rank = int.from_bytes(document.digest[8:], "little")
        heapq.heappush(kept, (-rank, number, document.text))
        size += len(document.text)
        while size > most and len(kept) > 1:
            size -= len(heapq.heappop(kept)[2])
    return [text for _, _, text in sorted(kept, key=lambda item: item[1])]
