"""A text on its way to tokens: read once to count it, and again to encode it, block by block."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter

import numpy as np

from firstlight.data.statistics import Sample, Survey, TextStatistics, of_scripts
from firstlight.data.tokenizers.base import MOST_LEARNED, Tokenizer

Texts = Callable[[], Iterable[Iterable[str]]]
"""Gives the documents of a text, each in blocks; it is called for each time that they are read."""
LEARNED_PARTS = 512
"""Parts of a long text from which a vocabulary is learned."""


class ChangedError(ValueError):
    """A file has changed between the times that it was read."""

    def __init__(self, what: str = "the text") -> None:
        super().__init__(f"{what} has changed while it was read; start again once it is written")


@dataclass(frozen=True)
class Shares:
    """The shares of the characters in training and in the test split; validation has the rest."""

    train: float
    test: float

    def ends(self, n_characters: int) -> dict[str, int]:
        """Return where each split ends, counted in characters across documents."""
        ends = {
            "train": int(self.train * n_characters),
            "val": n_characters - int(self.test * n_characters),
        }
        return {**ends, "test": n_characters} if self.test > 0 else ends


@dataclass(frozen=True)
class Reading:
    """The documents of a text, split by characters; they need not fit into memory."""

    texts: Texts
    shares: Shares | None
    """None: a single split, "all"."""
    special_tokens: bool

    @cached_property
    def survey(self) -> Survey:
        """What reading all of it once tells."""
        survey = Survey()
        for blocks in self.texts():
            survey.read(blocks)
        return survey

    @cached_property
    def ends(self) -> dict[str, int]:
        """Where each split ends; see `Shares.ends`."""
        n_characters = self.survey.n_characters
        return self.shares.ends(n_characters) if self.shares else {"all": n_characters}

    def split_by(self, shares: Shares) -> "Reading":
        """Return the same text, split in another way; it is not counted again."""
        other = Reading(self.texts, shares, self.special_tokens)
        vars(other)["survey"] = self.survey  # where cached_property keeps it
        return other

    @property
    def is_sampled(self) -> bool:
        """Whether a vocabulary is learned from a part of the training split."""
        return self.ends["train"] > MOST_LEARNED

    def to_learn_from(self) -> list[str]:
        """Return the documents of the training split, or a sample of a long one."""
        for name, documents in splits_of(self.texts(), self.ends):
            if name != "train":
                break
            if not self.is_sampled:
                return ["".join(blocks) for blocks in documents]
            sample = Sample(self.ends["train"], MOST_LEARNED, LEARNED_PARTS)
            for blocks in documents:
                for block in blocks:
                    sample.add(block)
            return sample.parts
        return []

    def encoded(self, tokenizer: Tokenizer) -> "Encoded":
        """Read all of it and encode it, while the result is iterated."""
        return Encoded(self, tokenizer)


class Encoded:
    """The ids of each split, some (n,) at a time, with the name of the split."""

    def __init__(self, reading: Reading, tokenizer: Tokenizer) -> None:
        self.reading, self.tokenizer = reading, tokenizer
        self.sample = of_scripts(reading.survey.n_characters)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        texts = map(self._watched, self.reading.texts())
        for name, documents in splits_of(texts, self.reading.ends):
            for ids in self.tokenizer.encode_blocks(
                documents, special_tokens=self.reading.special_tokens
            ):
                yield name, ids

    def _watched(self, blocks: Iterable[str]) -> Iterator[str]:
        for block in blocks:
            self.sample.add(block)
            yield block

    def statistics(self) -> TextStatistics:
        """Say what the documents are, once all have been encoded."""
        return self.reading.survey.statistics(self.sample)


def splits_of(
    texts: Iterable[Iterable[str]], ends: Mapping[str, int]
) -> Iterator[tuple[str, Iterator[Iterator[str]]]]:
    """Yield each split and its documents in blocks, to be read in this order.

    A split may begin and end within a document. One without characters is left out, and so are
    documents without any.
    """
    # groupby's groups share one iterator: each is used up, or lost, before the next.
    for name, of_split in groupby(_cut(texts, ends), key=itemgetter(0)):
        of_documents = groupby(of_split, key=itemgetter(1))
        yield name, (map(itemgetter(2), document) for _, document in of_documents)


def _cut(texts: Iterable[Iterable[str]], ends: Mapping[str, int]) -> Iterator[tuple[str, int, str]]:
    """Cut blocks where a split ends; yield split, number of the document, and block.

    Raises:
        ValueError: there are more or fewer characters than were counted.
    """
    place = 0
    # The last one has no name: characters beyond the splits were not there when they were counted.
    splits = iter([*ends.items(), ("", sys.maxsize)])
    name, end = next(splits)
    for number, blocks in enumerate(texts):
        for block in blocks:
            rest = block
            while place + len(rest) > end:
                head, rest = rest[: end - place], rest[end - place :]
                if head:
                    yield name, number, head
                place = end
                name, end = next(splits)
            if rest:
                if not name:  # it is beyond the last split
                    raise ChangedError
                yield name, number, rest
            place += len(rest)
    if place != max(ends.values()):
        raise ChangedError
