"""The contract of a tokenizer: text to ids and back through a `tiktoken.Encoding`."""

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import tiktoken
import torch
from tiktoken_ext.openai_public import r50k_pat_str
from torch import Tensor

from firstlight.errors import ConfigError, shorten
from firstlight.private import pattern_of, ranks_of

END_OF_TEXT = "<|endoftext|>"
MAX_VOCAB = 2**24
"""Largest `vocab_size` of a stored tokenizer: `byte_lengths` is a table of all ids."""
_ALL_BYTES = "".join(chr(code) for code in range(256))
_SAMPLE = "It's 12.5 \u00b0C,\n\tsaid Zo\u00eb \u2014 \u4f60\u597d!\r\n  " + _ALL_BYTES
"""Characters of every kind, to find patterns that lose some of them."""
LONGEST_PATTERN = 2000
"""Characters that a stored pattern may have; the longest of the known families has 300."""
KNOWN_PATTERNS = (r50k_pat_str, r"[\s\S]")
"""Patterns of firstlight's own tokenizers; their time is linear in the length of the text."""
SECONDS, SECONDS_PER_CHARACTER = 1.0, 2e-5
"""Processor time that any other pattern may take: a hundred times that of GPT-2's."""
MOST_LEARNED = 2**25
"""Characters from which a vocabulary is learned, at most: a sample of a longer text."""
PIECE = 2**16
"""Characters encoded at once.

BPE takes 50 times the size of a word in memory, and a text may be one long word."""


class Tokenizer(ABC):
    """A byte-level tokenizer with one special token, `<|endoftext|>`.

    Being byte-level it encodes any text, and decoding gives the text back. `vocab_size` is the
    number of ids that the config promises to the model; the vocabulary that `fit` finds may be
    smaller.
    """

    vocab_size: int
    encoding: tiktoken.Encoding
    note: str | None = None
    """A warning about the vocabulary that `fit` found."""
    is_learned: bool = False
    """Whether `fit` learns the vocabulary from the documents; otherwise they may be missing."""

    @property
    def recipe(self) -> Any:
        """All that decides what `fit` learns besides the documents, as plain data.

        None: that is not known, so that what was learned cannot be kept for a later run.
        """
        return None

    @abstractmethod
    def build(self, documents: list[str]) -> tiktoken.Encoding:
        """Build the encoding; one that is learned learns from `documents`, the training split."""

    def fit(self, documents: list[str]) -> None:
        """Learn or load the vocabulary.

        Raises:
            ValueError: the vocabulary is not available, or larger than `vocab_size`.
        """
        self.note = None
        self.encoding = self.build(documents)
        # These tables belong to the previous vocabulary.
        for cached in ("_bytes", "byte_lengths"):
            vars(self).pop(cached, None)
        if self.encoding.n_vocab > self.vocab_size:
            raise ValueError(
                f"vocab_size ({self.vocab_size}) must be at least {self.encoding.n_vocab}, the"
                " number of its ids"
            )

    @property
    def is_fitted(self) -> bool:
        """Whether it has a vocabulary."""
        return hasattr(self, "encoding")

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""
        return self.encoding.encode_single_token(END_OF_TEXT)

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Encode `text`.

        With `special_tokens`, `<|endoftext|>` in the text becomes the special token; otherwise it
        is encoded like any other characters.
        """
        if special_tokens:
            return self.encoding.encode(text, allowed_special="all")
        return self.encoding.encode_ordinary(text)

    def encode_documents(self, documents: list[str], *, special_tokens: bool = False) -> Tensor:
        """Encode `documents` as int32 ids (N,), with `end_of_text` between them."""
        # int32, half of int64: the ids of a text stay in memory for the whole run.
        ids = [np.empty(0, dtype=np.int32)]
        ids += self.encode_blocks(([text] for text in documents), special_tokens=special_tokens)
        return torch.from_numpy(np.concatenate(ids, dtype=np.int32))

    def encode_blocks(
        self, documents: Iterable[Iterable[str]], *, special_tokens: bool = False
    ) -> Iterator[np.ndarray]:
        """Yield the ids of `encode_documents`, some (n,) at a time.

        A document comes as blocks one after another, so that it need not be in memory as a whole.
        How it is cut into blocks does not matter.
        """
        end = np.array([self.end_of_text], dtype=np.uint32)  # as tiktoken's
        # Cut here, since a piece could end inside the special token.
        between = END_OF_TEXT if special_tokens else None
        is_first = True
        for blocks in documents:
            for piece, begins_text in pieces_of(blocks, between, PIECE):
                if begins_text and not is_first:
                    yield end
                is_first = False
                yield self._encode_piece(piece)

    def encode_each(self, documents: Iterable[str]) -> tuple[np.ndarray, list[int]]:
        """Encode documents, each after an `end_of_text`: all ids (N,), and how many each has."""
        end = np.array([self.end_of_text], dtype=np.uint32)  # as tiktoken's: nothing is converted
        parts: list[np.ndarray] = []
        lengths: list[int] = []
        for document in documents:
            ids = [end, *map(self._encode_piece, pieces(document, PIECE))]
            lengths.append(sum(map(len, ids)))
            parts += ids
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32), lengths

    def _encode_piece(self, text: str) -> np.ndarray:
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: list[int]) -> str:
        """Decode `ids`; an unknown id or an incomplete UTF-8 sequence becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_document(self, ids: list[int]) -> str:
        """Decode `ids` up to the first `end_of_text`."""
        if self.end_of_text in ids:
            ids = ids[: ids.index(self.end_of_text)]
        return self.decode(ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Decode `ids` to bytes, which may begin or end inside a character."""
        # An id may come from a model whose vocabulary is padded: decoding must not fail on it.
        unknown = "\ufffd".encode()
        return b"".join([self._bytes.get(i, unknown) for i in ids])

    def text_bytes(self, ids: Sequence[int]) -> bytes:
        """Decode `ids` to bytes, without `end_of_text`."""
        return self.decode_bytes([i for i in ids if i != self.end_of_text])

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of every id that has a token; a vocabulary may have gaps."""
        tokens = {i: token for token, i in ranks_of(self.encoding).items()}
        tokens[self.end_of_text] = END_OF_TEXT.encode()
        return tokens

    def without_token(self, n_ids: int) -> Tensor | None:
        """Return a mask (n_ids,) of a model's ids that have no token; None if all have one.

        A model has such ids if its vocabulary is padded, if the text was too short to learn that
        many tokens, or if the vocabulary has gaps.
        """
        used = [i for i in self._bytes if i < n_ids]
        unused = torch.ones(n_ids, dtype=torch.bool)
        unused[used] = False
        return unused if bool(unused.any()) else None

    @cached_property
    def byte_lengths(self) -> Tensor:
        """Bytes of text that each id stands for (vocab_size,); 0 for special and unused ids."""
        lengths = torch.zeros(self.vocab_size, dtype=torch.long)
        lengths[list(self._bytes)] = torch.tensor([len(token) for token in self._bytes.values()])
        # No text was there: bits per byte counts only what a reader could read.
        lengths[self.end_of_text] = 0
        return lengths

    def state_dict(self) -> dict[str, Any]:
        """Return all that a `StoredTokenizer` needs to reproduce this one, as plain data."""
        ranks = ranks_of(self.encoding)
        # In hex, because a token may end inside a character; "" for an id without a token.
        tokens = [""] * (max(ranks.values()) + 1)
        for token, i in ranks.items():
            tokens[i] = token.hex()
        return {
            "name": self.encoding.name,
            "pattern": pattern_of(self.encoding),
            "tokens": tokens,
            "end_of_text": self.end_of_text,
            "vocab_size": self.vocab_size,
        }


def pieces(text: str, size: int) -> Iterator[str]:
    """Cut `text` into pieces of `size` to `2 * size` characters with the same ids as the whole.

    A cut is made before a single space between words, where GPT-2's pattern always cuts. Only if
    `size` characters contain none, it may be inside a word or a run of spaces.
    """
    start = 0
    while len(text) - start > 2 * size:
        # Searched from `size` on, so that no piece is shorter and the search stays linear.
        found = _BEFORE_A_SPACE.search(text, start + size, start + 2 * size)
        end = found.end() if found else start + 2 * size
        yield text[start:end]
        start = end
    yield text[start:]


def pieces_of(blocks: Iterable[str], end: str | None, size: int) -> Iterator[tuple[str, bool]]:
    """Cut a text that comes in `blocks` as `pieces` cuts the whole of it; each with a bool.

    With `end` the text is first split at each `end`, which is in no piece. The bool is True for
    the first piece of the text, and for the first one after an `end`. No more is in memory than a
    block and some pieces.
    """
    held, begins = "", True
    # An `end` that is not whole yet is among the last characters, and never in what is cut.
    most = 2 * size + len(end or "")
    for block in blocks:
        held += block
        if end is not None:
            *whole, held = held.split(end)
            for text in whole:
                for piece in pieces(text, size):
                    yield piece, begins
                    begins = False
                begins = True
        if len(held) > most:
            # A cut looks `2 * size` characters ahead, as far as is held back here.
            *parts, last = pieces(held[:-most], size)
            for piece in parts:
                yield piece, begins
                begins = False
            held = last + held[-most:]
    for piece in pieces(held, size):
        yield piece, begins
        begins = False


_BEFORE_A_SPACE = re.compile(r"\S(?= \S)")


class StoredTokenizer(Tokenizer):
    """The tokenizer stored in a checkpoint.

    A checkpoint may come from anybody, and matching its pattern may take quadratic time or worse,
    so encoding has a time limit.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.vocab_size = int(state["vocab_size"])
        if self.vocab_size > MAX_VOCAB:
            raise ValueError(
                f"vocab_size ({shorten(str(self.vocab_size))}) must be at most {MAX_VOCAB:,}"
            )
        # Nothing of the state is trusted: check what would cost memory or time before `fit`.
        n_characters = len(state["pattern"])
        if n_characters > LONGEST_PATTERN:
            raise ValueError(
                f"its pattern has {n_characters:,} characters; the limit is {LONGEST_PATTERN:,}"
            )
        end, tokens = state["end_of_text"], state["tokens"]
        is_id = isinstance(end, int) and 0 <= end < self.vocab_size
        if not is_id or (end < len(tokens) and tokens[end]):
            raise ValueError(
                f"{END_OF_TEXT} ({shorten(str(end))}) must be an id below {self.vocab_size} of"
                " its own"
            )
        self.fit([])

    def build(self, documents: list[str]) -> tiktoken.Encoding:
        ranks = {
            bytes.fromhex(token): rank for rank, token in enumerate(self.state["tokens"]) if token
        }
        encoding = tiktoken.Encoding(
            name=self.state["name"],
            pat_str=self.state["pattern"],
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: int(self.state["end_of_text"])},
        )
        # tiktoken drops the characters that its pattern does not match.
        sample_ids = self._limited(encoding.encode_ordinary, _SAMPLE)
        if encoding.decode_bytes(sample_ids) != _SAMPLE.encode():
            raise ValueError("its pattern does not cut every text into words")
        return encoding

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        return self._limited(partial(super().encode, special_tokens=special_tokens), text)

    def _encode_piece(self, text: str) -> np.ndarray:
        return self._limited(super()._encode_piece, text)

    def _limited(self, encode: Callable[[str], Any], text: str) -> Any:
        """Return `encode(text)`, with a time limit unless the pattern is known to be fast.

        Raises:
            ConfigError: it takes too long, or the pattern cannot cut this text.
        """
        found: list[Any] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                found.append(encode(text))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # A panic in tiktoken's Rust code is not an Exception.
                failures.append(error)

        pattern = shorten(repr(self.state["pattern"]))
        if self.state["pattern"] in KNOWN_PATTERNS:
            run()
        else:
            # A thread cannot be stopped: one that takes too long is abandoned, and as a daemon it
            # ends with the process. Processor time counts, so a busy machine fails no text.
            thread = threading.Thread(target=run, daemon=True)
            limit = time.process_time() + SECONDS + SECONDS_PER_CHARACTER * len(text)
            thread.start()
            thread.join(SECONDS / 10)
            while thread.is_alive():
                if time.process_time() > limit:
                    raise ConfigError(
                        f"the checkpoint's tokenizer takes too long for a text of {len(text):,}"
                        f" characters: its pattern is {pattern}"
                    )
                thread.join(SECONDS / 10)
        if failures:
            problem = (
                f"the checkpoint's tokenizer cannot encode this text; its pattern is {pattern}"
            )
            raise ConfigError(problem) from failures[0]
        return found[0]
