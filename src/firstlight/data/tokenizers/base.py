"""The contract of a tokenizer: text to ids and back, through a `tiktoken.Encoding`."""

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import tiktoken
import torch
from tiktoken_ext.openai_public import r50k_pat_str
from torch import Tensor

from firstlight.errors import ConfigError, shorten

END_OF_TEXT = "<|endoftext|>"
MAX_VOCAB = 2**24
"""Ids of a stored tokenizer: a table of them is made."""
_SAMPLE = "It's 12.5 \u00b0C,\n\tsaid Zo\u00eb \u2014 \u4f60\u597d!\r\n  " + "".join(map(chr, range(256)))
"""Of everything a little: a pattern that loses some of it is none of a tokenizer."""
LONGEST_PATTERN = 2000
"""Characters of a stored tokenizer's pattern; the longest of the known families has 300."""
KNOWN_PATTERNS = (r50k_pat_str, r"[\s\S]")
"""Those that firstlight's own tokenizers have: they take time in proportion to a text."""
SECONDS, SECONDS_PER_CHARACTER = 1.0, 2e-5
"""Of the processor, that another pattern may take for a text: a hundred times what GPT-2's takes."""
PIECE = 2**16
"""Characters that are encoded at once: the BPE of a word takes 50 times its bytes, and a text may be one word."""


class Tokenizer(ABC):
    """A byte-level tokenizer with one special token, `<|endoftext|>`: every text round-trips.

    `vocab_size` is what the config promises to the model; `fit` finds the vocabulary, which may be smaller.
    """

    vocab_size: int
    encoding: tiktoken.Encoding
    note: str | None = None
    """What is odd about the vocabulary that `fit` found, though a model can be trained with it."""

    @abstractmethod
    def build(self, documents: list[str]) -> tiktoken.Encoding:
        """The encoding, from the documents of the training split where it is learned."""

    def fit(self, documents: list[str]) -> None:
        """Make ready to encode.

        Raises:
            ValueError: the vocabulary cannot be had, or is larger than `vocab_size`.
        """
        self.note = None
        self.encoding = self.build(documents)
        for cached in ("_bytes", "byte_lengths"):
            vars(self).pop(cached, None)
        if self.encoding.n_vocab > self.vocab_size:
            raise ValueError(f"vocab_size ({self.vocab_size}) must be at least the {self.encoding.n_vocab} ids it has")

    @property
    def is_fitted(self) -> bool:
        """Can it encode yet?"""
        return hasattr(self, "encoding")

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""
        return self.encoding.encode_single_token(END_OF_TEXT)

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Ids of `text`; `<|endoftext|>` inside it is the special token if asked, else seven plain characters more."""
        if special_tokens:
            return self.encoding.encode(text, allowed_special="all")
        return self.encoding.encode_ordinary(text)

    def encode_documents(self, documents: list[str], *, special_tokens: bool = False) -> Tensor:
        """Ids (N,) int32 of `documents`, one after the other with `end_of_text` between them."""
        end, ids = np.array([self.end_of_text], dtype=np.int32), [np.empty(0, dtype=np.int32)]
        for document in documents:
            for text in document.split(END_OF_TEXT) if special_tokens else [document]:
                ids += [*(self._encode_piece(piece) for piece in pieces(text, PIECE)), end]
        return torch.from_numpy(np.concatenate(ids[:-1] or ids, dtype=np.int32))

    def _encode_piece(self, text: str) -> np.ndarray:
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; an id that the vocabulary lacks, or a cut UTF-8 sequence, becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_document(self, ids: list[int]) -> str:
        """Text of `ids` up to the first `end_of_text`."""
        return self.decode(ids[: ids.index(self.end_of_text)] if self.end_of_text in ids else ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes of `ids`, whole characters or not."""
        return b"".join(self._bytes.get(i, "\ufffd".encode()) for i in ids)

    def text_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids` without `end_of_text`, which stands for none."""
        return self.decode_bytes([i for i in ids if i != self.end_of_text])

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of every id that stands for a token: a vocabulary may have gaps."""
        special = {i: text.encode() for text, i in self.encoding._special_tokens.items()}
        return {i: token for token, i in self.encoding._mergeable_ranks.items()} | special

    def without_token(self, n_ids: int) -> Tensor | None:
        """Which of the `n_ids` ids of a model stand for no token, as a mask (n_ids,); None if every one has a token.

        A model has such ids if its vocabulary is padded, if the text was too short to learn as many tokens, or if the
        vocabulary has gaps.
        """
        unused = torch.ones(n_ids, dtype=torch.bool)
        unused[[i for i in self._bytes if i < n_ids]] = False
        return unused if bool(unused.any()) else None

    @cached_property
    def byte_lengths(self) -> Tensor:
        """Bytes of text (vocab_size,) that each id stands for; none for the special token and unused ids."""
        lengths = torch.zeros(self.vocab_size, dtype=torch.long)
        lengths[list(self._bytes)] = torch.tensor([len(token) for token in self._bytes.values()])
        lengths[self.end_of_text] = 0
        return lengths

    def state_dict(self) -> dict[str, Any]:
        """Everything a `StoredTokenizer` needs to be this one, as plain data."""
        return {
            "name": self.encoding.name,
            "pattern": self.encoding._pat_str,
            "tokens": self._stored_tokens(),
            "end_of_text": self.end_of_text,
            "vocab_size": self.vocab_size,
        }

    def _stored_tokens(self) -> list[str]:
        """Every token in hex, in the place of its id, up to the last; nothing in the place of an id without one."""
        tokens = {i: token.hex() for i, token in self._bytes.items() if i != self.end_of_text}
        return [tokens.get(i, "") for i in range(max(tokens) + 1)]


def pieces(text: str, size: int) -> Iterator[str]:
    """`text` in pieces of `size` to twice as many characters, which have the same ids one by one.

    They are cut before single spaces between words, as GPT-2's pattern always does; only where there is none in
    `size` characters is a word cut, or a run of spaces.
    """
    start = 0
    while len(text) - start > 2 * size:
        found = _BEFORE_A_SPACE.search(text, start + size, start + 2 * size)
        end = found.end() if found else start + 2 * size
        yield text[start:end]
        start = end
    yield text[start:]


_BEFORE_A_SPACE = re.compile(r"\S(?= \S)")


class StoredTokenizer(Tokenizer):
    """The tokenizer that a checkpoint carries.

    Its pattern may be anybody's, and take the square of a text's length or more: what it may cost is limited.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.vocab_size = int(state["vocab_size"])
        if self.vocab_size > MAX_VOCAB:
            raise ValueError(f"vocab_size ({shorten(str(self.vocab_size))}) must be at most {MAX_VOCAB:,}")
        if len(state["pattern"]) > LONGEST_PATTERN:
            raise ValueError(
                f"its pattern has {len(state['pattern']):,} characters, up to {LONGEST_PATTERN:,} are read"
            )
        end, tokens = state["end_of_text"], state["tokens"]
        is_id = isinstance(end, int) and 0 <= end < self.vocab_size
        if not is_id or (end < len(tokens) and tokens[end]):
            raise ValueError(f"{END_OF_TEXT} ({shorten(str(end))}) must be an id below {self.vocab_size} of its own")
        self.fit([])

    def build(self, documents: list[str]) -> tiktoken.Encoding:
        encoding = tiktoken.Encoding(
            name=self.state["name"],
            pat_str=self.state["pattern"],
            mergeable_ranks={bytes.fromhex(token): rank for rank, token in enumerate(self.state["tokens"]) if token},
            special_tokens={END_OF_TEXT: int(self.state["end_of_text"])},
        )
        if encoding.decode_bytes(self._limited(encoding.encode_ordinary, _SAMPLE)) != _SAMPLE.encode():
            raise ValueError("its pattern does not cut every text into words")
        return encoding

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        return self._limited(partial(super().encode, special_tokens=special_tokens), text)

    def _encode_piece(self, text: str) -> np.ndarray:
        return self._limited(super()._encode_piece, text)

    def _limited(self, encode: Callable[[str], Any], text: str) -> Any:
        """`encode(text)`; with a pattern that is not known to be fast in a thread, which is left if it takes too long.

        Raises:
            ConfigError: it does, or the pattern cannot cut this text.
        """
        found: list[Any] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                found.append(encode(text))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a panic of tiktoken's Rust is no Exception
                failures.append(error)

        if self.state["pattern"] in KNOWN_PATTERNS:
            run()
        else:
            self._wait_for(threading.Thread(target=run, daemon=True), text)
        if failures:
            pattern = shorten(repr(self.state["pattern"]))
            problem = f"the checkpoint's tokenizer cannot encode this text; its pattern is {pattern}"
            raise ConfigError(problem) from failures[0]
        return found[0]

    def _wait_for(self, thread: threading.Thread, text: str) -> None:
        """Let `thread` encode `text`.

        Raises:
            ConfigError: it takes too long.
        """
        limit = time.process_time() + SECONDS + SECONDS_PER_CHARACTER * len(text)
        thread.start()
        thread.join(SECONDS / 10)
        while thread.is_alive():
            if time.process_time() > limit:
                raise ConfigError(
                    f"the checkpoint's tokenizer takes too long for a text of {len(text):,} characters: its pattern is "
                    f"{shorten(repr(self.state['pattern']))}"
                )
            thread.join(SECONDS / 10)
