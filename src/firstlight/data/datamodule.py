"""Text to tokens: split by characters, encode, cut into windows."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.config import PositiveRatio, Ratio
from firstlight.data.checks import check_size, memory_for_text
from firstlight.data.documents import documents_in
from firstlight.data.findings import Findings
from firstlight.data.kept import KeptText, KeptTokens, LargeText, update_with_ids
from firstlight.data.reading import Encoded, Reading, Shares
from firstlight.data.shards.windows import ShardTokens, ShardWindows
from firstlight.data.statistics import Survey, TextStatistics
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import END_OF_TEXT, MOST_LEARNED
from firstlight.data.windows import TensorWindows, Windows
from firstlight.errors import counted, shorten
from firstlight.output import note

LONGEST_TRIED = 2**24
"""Bytes of a text that is split and encoded again and again to find a ratio that works."""


class TextDataModule(TokenDataModule):
    """A text in training, validation and test splits, served as batches of token windows.

    A dataset is a subclass that returns its documents. They are split by characters, so that
    splits do not depend on the tokenizer. A `test_ratio` of None is half of what training leaves,
    and validation has the other half.

    Raises:
        ValueError: the ratios leave no validation split; see also `TokenDataModule`.
    """

    def __init__(
        self,
        *,
        train_ratio: PositiveRatio = 0.9,
        test_ratio: Ratio | None = 0.0,
        special_tokens: bool = False,
        **kwargs: Any,
    ) -> None:
        if test_ratio is not None and train_ratio + test_ratio >= 1:
            raise ValueError(
                f"train_ratio ({train_ratio}) + test_ratio ({test_ratio}) must be less than 1: "
                "the rest is the validation split"
            )
        super().__init__(**kwargs)
        self.shares = _shares(train_ratio, test_ratio)
        self.test_is_half = test_ratio is None
        self.special_tokens = special_tokens
        self.ids: dict[str, Tensor] = {}
        """Of a text in memory."""
        self.findings: Findings | None = None
        """What the text is, once it is known."""
        self._sha256 = ""

    @property
    def statistics(self) -> TextStatistics | None:
        """What the documents are, once they are known."""
        return self.findings.statistics if self.findings is not None else None

    @abstractmethod
    def documents(self) -> list[str]:
        """Return the documents of this dataset.

        Raises:
            ValueError: they are not available; the message says why and what to do.
        """

    def iter_documents(self) -> Iterator[str]:
        """Yield the same documents one by one; a source that may exceed memory overrides this."""
        yield from self.documents()

    def iter_texts(self) -> Iterator[Iterable[str]]:
        """Yield the same documents, each in blocks that are read one after another.

        A source in which one document may exceed memory overrides this.
        """
        for document in self.iter_documents():
            yield [document]

    def iter_pieces(self, longest: int) -> Iterator[str]:
        """Yield the documents one by one, long ones cut into documents of at most `longest`.

        With `special_tokens` a document also ends at each `<|endoftext|>` in a text. Documents
        without text are left out.
        """
        end = END_OF_TEXT if self.special_tokens else None
        for blocks in self.iter_texts():
            for document in documents_in(blocks, end, longest):
                if document.strip():
                    yield document

    def large_text(self) -> LargeText | None:
        """Return the files of the text if their tokens are worth keeping.

        None: the text is short, or what it is can only be told by reading it.

        Raises:
            ValueError: they cannot be read.
        """
        return None

    def findings_of(self, survey: Survey, encoded: Encoded) -> Findings:
        """Return what is to be told about the text.

        Raises:
            ValueError: it has no text in it.
        """
        train_end = encoded.reading.ends.get("train")
        return Findings(
            statistics=encoded.statistics(),
            n_nul=survey.n_nul,
            shared="" if train_end is None else survey.shared_with_training(train_end),
        )

    def notes_of(self, findings: Findings) -> list[str]:
        """Return what the user should know about the text."""
        return findings.notes()

    def read(self, stage: str | None) -> dict[str, Windows]:
        shares = None if stage == "all" else self.shares
        is_fitted = self.tokenizer.is_fitted
        text = self.large_text()
        if text is None:
            documents = self.documents()

            def in_memory() -> Iterator[list[str]]:
                return ([document] for document in documents)

            windows = self._read_to_memory(Reading(in_memory, shares, self.special_tokens))
        else:
            windows = self._read_large(text, Reading(self.iter_texts, shares, self.special_tokens))
        assert self.findings is not None
        self.notes += self.notes_of(self.findings)
        if not is_fitted and self.tokenizer.note is not None:
            self.notes.append(self.tokenizer.note)
        return windows

    def _read_to_memory(self, reading: Reading) -> dict[str, Windows]:
        self._fit(reading)
        # In the type of the tokenizer, which may be smaller, until they are joined.
        parts: dict[str, list[np.ndarray]] = {name: [np.empty(0, "<i4")] for name in reading.ends}
        encoded = reading.encoded(self.tokenizer)
        for name, ids in encoded:
            parts[name].append(ids)
        self.findings = self.findings_of(reading.survey, encoded)
        # int32, half of int64: they stay in memory for the whole run.
        for name in list(parts):
            self.ids[name] = torch.from_numpy(np.concatenate(parts.pop(name), dtype=np.int32))
        self._check_sizes({name: len(ids) for name, ids in self.ids.items()}, reading)
        return {
            name: TensorWindows(ids, **self.window_size(name)) for name, ids in self.ids.items()
        }

    def _read_large(self, text: LargeText, reading: Reading) -> dict[str, Windows]:
        cut = [reading.shares and asdict(reading.shares), self.special_tokens]
        kept = KeptTokens(text, cut)
        try:
            found = self._look_up(kept)
            if found is None:
                with kept.alone():
                    # Another process may have made them meanwhile.
                    found = self._look_up(kept) or self._keep(kept, reading)
        except OSError as error:
            self.notes.append(
                f"{shorten(str(text.folder))}: tokens cannot be kept ({error.strerror or error}):"
                " they are in memory, and the text is read at every start; data.cache_dir=...,"
                " or FIRSTLIGHT_CACHE_DIR, names another folder"
            )
            check_size(self.setting(), reading.survey.n_bytes, memory_for_text())
            return self._read_to_memory(reading)
        facts, shards = found
        self.findings, self._sha256 = facts.findings, facts.sha256_of_ids
        tokens = {name: ShardTokens(of_split) for name, of_split in shards.items()}
        self._check_sizes({name: len(of_split) for name, of_split in tokens.items()})
        return {
            name: ShardWindows(of_split, **self.window_size(name))
            for name, of_split in tokens.items()
        }

    def _look_up(self, kept: KeptTokens) -> KeptText | None:
        """Look for tokens that were kept, and for a vocabulary that was learned from this text."""
        if not self.tokenizer.is_fitted:
            if not self.tokenizer.is_learned:
                # It learns nothing from a text.
                self.tokenizer.fit([])
            elif stored := kept.vocabulary(self.tokenizer.recipe):
                self.tokenizer = stored
            else:
                return None
        return kept.find(self.tokenizer)

    def _keep(self, kept: KeptTokens, reading: Reading) -> KeptText:
        """Learn a vocabulary if none is known, encode the text, and keep its tokens."""
        if not self.tokenizer.is_fitted:
            self._fit(reading)
            if self.tokenizer.recipe is not None:
                kept.keep_vocabulary(self.tokenizer.recipe, self.tokenizer)
            elif found := kept.find(self.tokenizer):
                return found
        note(
            f"{self.setting()}: encoding {reading.survey.n_bytes / 1e6:,.0f} MB, once; the tokens"
            f" are kept in {shorten(str(kept.text.folder))}"
        )
        with kept.writing(self.tokenizer, list(reading.ends)) as writer:
            encoded = reading.encoded(self.tokenizer)
            for name, ids in encoded:
                writer.write(name, ids)
            kept.check_unchanged()
            writer.finish(self.findings_of(reading.survey, encoded))
        found = kept.find(self.tokenizer)
        assert found is not None
        return found

    def _fit(self, reading: Reading) -> None:
        """Give the tokenizer its vocabulary; that of a checkpoint is kept."""
        if self.tokenizer.is_fitted or reading.shares is None:
            return
        # From the training split alone.
        self.tokenizer.fit(reading.to_learn_from())
        if self.tokenizer.is_learned and reading.is_sampled:
            learned = (
                f"the vocabulary was learned from a sample of {MOST_LEARNED:,} of the"
                f" {reading.ends['train']:,} characters of training"
            )
            self.tokenizer.note = "; ".join(filter(None, [learned, self.tokenizer.note]))

    def sha256(self) -> str:
        # The ids, not the text: another vocabulary or split makes another run of the same text.
        if not self._sha256:
            digest = hashlib.sha256()
            for name in sorted(self.ids):
                update_with_ids(digest, name, [self.ids[name].numpy()])
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _check_sizes(self, n_tokens: dict[str, int], reading: Reading | None = None) -> None:
        """Refuse a split without a window; with `reading` another ratio may be advised.

        Raises:
            ValueError: there is one.
        """
        short = {name: n for name, n in n_tokens.items() if n <= self.context_length}
        if not short:
            return
        name, n_of_first = next(iter(short.items()))
        # A window of T tokens needs T + 1 ids: the last target follows the last input.
        fewest = min(short.values())
        ways: list[str] = []
        if fewest > 1:
            ways.append(f"model.context_length={fewest - 1}")
        if "train" not in short and (self.test_is_half or "test" not in short):
            ways += self._other_ratios(n_tokens, reading)
        raise ValueError(
            f"the {name} split has {counted(n_of_first, 'token')}, too few for one window of"
            f" {self.context_length} + 1; use {' or '.join([*ways, 'a longer text'])}"
        )

    def _other_ratios(self, n_tokens: dict[str, int], reading: Reading | None) -> list[str]:
        """Find settings of the splits with which each of them has a window."""
        ways: list[str] = []
        test = None if self.test_is_half else self.shares.test
        ratio = self._smaller_ratio(reading, test)
        if ratio is not None:
            ways.append(f"data.train_ratio={ratio}")
        if self.test_is_half and n_tokens["val"] + n_tokens["test"] > self.context_length:
            ways.append("data.test_ratio=0")
        elif self.test_is_half and ratio is None:
            ratio = self._smaller_ratio(reading, 0.0)
            if ratio is not None:
                ways.append(f"data.train_ratio={ratio} with data.test_ratio=0")
        return ways

    def _smaller_ratio(self, reading: Reading | None, test: float | None) -> float | None:
        """Find the largest `train_ratio` (in steps of 0.01) that leaves every split one window.

        `test` is `test_ratio`. Returns None if there is none, or if trying takes long.
        """
        if reading is None or reading.survey.n_bytes > LONGEST_TRIED:
            return None
        growing = ("val", "test") if test is None else ("val",)
        for hundredths in range(round(self.shares.train * 100) - 1, 0, -1):
            other = reading.split_by(_shares(hundredths / 100, test))
            # A learned vocabulary depends on the split, and the number of tokens on both.
            self.tokenizer.fit(other.to_learn_from())
            lengths = dict.fromkeys(other.ends, 0)
            for name, ids in other.encoded(self.tokenizer):
                lengths[name] += len(ids)
            if min(n for name, n in lengths.items() if name in growing) <= self.context_length:
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


def _shares(train: float, test: float | None) -> Shares:
    """The shares of training and test; a test share of None is half of what training leaves."""
    # Rounded: half of 1 - 0.9 is to be 0.05, not 0.04999999999999999.
    return Shares(train, round((1 - train) / 2, 12) if test is None else test)
