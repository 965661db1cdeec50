"""Text to tokens: split by characters, encode, cut into windows."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from firstlight.config import PositiveRatio, Ratio
from firstlight.data.documents import documents_in
from firstlight.data.statistics import TextStatistics, shared_with_training, statistics_of
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import END_OF_TEXT
from firstlight.data.windows import TensorWindows, Windows
from firstlight.errors import counted


class TextDataModule(TokenDataModule):
    """A text in training, validation and test splits, served as batches of token windows.

    A dataset is a subclass that returns its documents. They are split by characters, so that
    splits do not depend on the tokenizer.

    Raises:
        ValueError: the ratios leave no validation split; see also `TokenDataModule`.
    """

    def __init__(
        self,
        *,
        train_ratio: PositiveRatio = 0.9,
        test_ratio: Ratio = 0.0,
        special_tokens: bool = False,
        **kwargs: Any,
    ) -> None:
        if train_ratio + test_ratio >= 1:
            raise ValueError(
                f"train_ratio ({train_ratio}) + test_ratio ({test_ratio}) must be less than 1: "
                "the rest is the validation split"
            )
        super().__init__(**kwargs)
        self.train_ratio = train_ratio
        self.test_ratio = test_ratio
        self.special_tokens = special_tokens
        self.ids: dict[str, Tensor] = {}
        self.statistics: TextStatistics | None = None
        """Of the documents, once they have been read."""
        self.copies_are_noted = False
        """Whether a note says already that some of the text comes twice."""

    @abstractmethod
    def documents(self) -> list[str]:
        """Return the documents of this dataset.

        Raises:
            ValueError: they are not available; the message says why and what to do.
        """

    def iter_documents(self) -> Iterator[str]:
        """Yield the same documents one by one; a source that may exceed memory overrides this."""
        yield from self.documents()

    def iter_pieces(self, longest: int) -> Iterator[str]:
        """Yield the documents one by one, long ones cut into documents of at most `longest`.

        With `special_tokens` a document also ends at each `<|endoftext|>` in a text. Documents
        without text are left out. A source in which one document may exceed memory overrides this.
        """
        for text in self.iter_documents():
            yield from self.cut([text], longest)

    def cut(self, blocks: Iterable[str], longest: int) -> Iterator[str]:
        """Cut one text, whose `blocks` come one after another, as `iter_pieces` says."""
        end = END_OF_TEXT if self.special_tokens else None
        for document in documents_in(blocks, end, longest):
            if document.strip():
                yield document

    def read(self, stage: str | None) -> dict[str, Windows]:
        documents = self.documents()
        # NUL is valid UTF-8, but hardly ever in a text: this may be binary data, or UTF-16 that
        # `read_text` did not recognise.
        self.statistics = statistics_of(documents)
        n_nul = sum(document.count("\0") for document in documents)
        if n_nul > 0:
            self.notes.append(f"the text has {n_nul:,} NUL characters in it; is it UTF-8 text?")
        if stage == "all":
            splits = {"all": documents}
        else:
            splits = self._split(documents, self.train_ratio)
            self._note_shared(documents)
            # A vocabulary is learned from the training split alone; that of a checkpoint is kept.
            if not self.tokenizer.is_fitted:
                self.tokenizer.fit(splits["train"])
                if self.tokenizer.note is not None:
                    self.notes.append(self.tokenizer.note)
        self.ids = {name: self._encode(texts) for name, texts in splits.items()}
        self._check_sizes(documents)
        windows: dict[str, Windows] = {}
        for name, ids in self.ids.items():
            stride = self.stride if name == "train" else self.context_length
            windows[name] = TensorWindows(ids, context_length=self.context_length, stride=stride)
        return windows

    def sha256(self) -> str:
        digest = hashlib.sha256()
        # The ids, not the text: another vocabulary or split makes another run of the same text.
        for name in sorted(self.ids):
            digest.update(name.encode())
            digest.update(self.ids[name].numpy().data)
        return digest.hexdigest()

    def _encode(self, texts: list[str]) -> Tensor:
        return self.tokenizer.encode_documents(texts, special_tokens=self.special_tokens)

    def _split(self, documents: list[str], train_ratio: float) -> dict[str, list[str]]:
        # Characters are counted across documents: a split may end in the middle of one.
        n_characters = sum(len(document) for document in documents)
        train_end = int(train_ratio * n_characters)
        val_end = n_characters - int(self.test_ratio * n_characters)
        splits = {
            "train": _cut(documents, 0, train_end),
            "val": _cut(documents, train_end, val_end),
        }
        if self.test_ratio > 0:
            splits["test"] = _cut(documents, val_end, n_characters)
        return splits

    def _note_shared(self, documents: list[str]) -> None:
        if self.copies_are_noted:
            return
        train_end = int(self.train_ratio * sum(map(len, documents)))
        shared = shared_with_training(documents, train_end)
        if shared:
            self.notes.append(
                f"training and validation share {shared}, so val/loss looks better than it is;"
                " leave the duplicates out"
            )

    def _check_sizes(self, documents: list[str]) -> None:
        short = {
            name: len(ids) for name, ids in self.ids.items() if len(ids) <= self.context_length
        }
        if not short:
            return
        name, n_tokens = next(iter(short.items()))
        # A window of T tokens needs T + 1 ids: the last target follows the last input.
        fewest = min(short.values())
        ways: list[str] = []
        if fewest > 1:
            ways.append(f"model.context_length={fewest - 1}")
        if list(short) == ["val"]:
            ratio = self._smaller_ratio(documents)
            if ratio is not None:
                ways.append(f"data.train_ratio={ratio}")
        raise ValueError(
            f"the {name} split has {counted(n_tokens, 'token')}, too few for one window of"
            f" {self.context_length} + 1; use {' or '.join([*ways, 'a longer text'])}"
        )

    def _smaller_ratio(self, documents: list[str]) -> float | None:
        """Find the largest `train_ratio` (in steps of 0.01) that leaves every split one window.

        Returns None if there is none.
        """
        for hundredths in range(round(self.train_ratio * 100) - 1, 0, -1):
            splits = self._split(documents, hundredths / 100)
            # A learned vocabulary depends on the split, and the number of tokens on both.
            self.tokenizer.fit(splits["train"])
            lengths = {name: len(self._encode(texts)) for name, texts in splits.items()}
            if lengths["val"] <= self.context_length:
                continue
            # From here on training only gets shorter: if a split is too short now, it remains so.
            if min(lengths.values()) > self.context_length:
                return hundredths / 100
            return None
        return None

    def summary(self) -> str:
        lines = super().summary().splitlines()
        if self.statistics is not None:
            lines.insert(1 if self.source() else 0, str(self.statistics))
        return "\n".join(lines)


def _cut(documents: list[str], start: int, end: int) -> list[str]:
    """Cut out the characters `start` to `end`, counted across documents; drop empty parts."""
    parts: list[str] = []
    offset = 0
    for document in documents:
        part = document[max(start - offset, 0) : max(end - offset, 0)]
        if part:
            parts.append(part)
        offset += len(document)
    return parts
