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
"""Limit for the ids of a stored tokenizer, which all are in a table."""
_SAMPLE = "It's 12.5 \u00b0C,\n\tsaid Zo\u00eb \u2014 \u4f60\u597d!\r\n  " + "".join(
    map(chr, range(256))
)
"""Characters of every kind: a pattern that loses some of them cannot be that of a tokenizer."""
LONGEST_PATTERN = 2000
"""Limit for the characters of a stored tokenizer's pattern; the longest of the known families has
300."""
KNOWN_PATTERNS = (r50k_pat_str, r"[\s\S]")
"""Patterns of firstlight's own tokenizers, whose time is linear in the text."""
SECONDS, SECONDS_PER_CHARACTER = 1.0, 2e-5
"""Processor time that another pattern may take for a text: a hundred times as much as GPT-2's."""
PIECE = 2**16
"""Characters encoded at once: the BPE of a word takes 50 times its bytes of memory, and a text may
be one word."""


class Tokenizer(ABC):
    """A byte-level tokenizer with one special token, `<|endoftext|>`: decoding its ids gives back
    any text.

    `vocab_size` is the number of ids that the config promises to the model; the vocabulary that
    `fit` finds may be smaller.
    """

    vocab_size: int
    encoding: tiktoken.Encoding
    note: str | None = None
    """A warning about the vocabulary that `fit` found."""

    @abstractmethod
    def build(self, documents: list[str]) -> tiktoken.Encoding:
        """The encoding, learned from `documents` (the training split) if it is learned at all."""

    def fit(self, documents: list[str]) -> None:
        """Learn or load the vocabulary.

        Raises:
            ValueError: the vocabulary is not available, or larger than `vocab_size`.
        """
        self.note = None
        self.encoding = self.build(documents)
        for cached in ("_bytes", "byte_lengths"):
            vars(self).pop(cached, None)
        if self.encoding.n_vocab > self.vocab_size:
            raise ValueError(
                f"vocab_size ({self.vocab_size}) must be at least the {self.encoding.n_vocab} ids"
                " it has"
            )

    @property
    def is_fitted(self) -> bool:
        """Whether it can encode yet."""
        return hasattr(self, "encoding")

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""
        return self.encoding.encode_single_token(END_OF_TEXT)

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Ids of `text`, in which `<|endoftext|>` is the special token with `special_tokens`, else
        plain characters.
        """
        if special_tokens:
            return self.encoding.encode(text, allowed_special="all")
        return self.encoding.encode_ordinary(text)

    def encode_documents(self, documents: list[str], *, special_tokens: bool = False) -> Tensor:
        """Ids (N,) int32 of `documents`, one after another with `end_of_text` between them."""
        end = np.array([self.end_of_text], dtype=np.int32)
        ids = [np.empty(0, dtype=np.int32)]
        for document in documents:
            for text in document.split(END_OF_TEXT) if special_tokens else [document]:
                if len(ids) > 1:
                    ids.append(end)
                ids += [self._encode_piece(piece) for piece in pieces(text, PIECE)]
        return torch.from_numpy(np.concatenate(ids, dtype=np.int32))

    def _encode_piece(self, text: str) -> np.ndarray:
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; an unknown id or an incomplete UTF-8 sequence becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_document(self, ids: list[int]) -> str:
        """Text of `ids` up to the first `end_of_text`."""
        if self.end_of_text in ids:
            ids = ids[: ids.index(self.end_of_text)]
        return self.decode(ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes of `ids`, which may begin or end inside a character."""
        unknown = "\ufffd".encode()
        return b"".join([self._bytes.get(i, unknown) for i in ids])

    def text_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`; `end_of_text` stands for none."""
        return self.decode_bytes([i for i in ids if i != self.end_of_text])

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of every id that has a token: a vocabulary may have gaps."""
        tokens = {i: token for token, i in self.encoding._mergeable_ranks.items()}
        tokens[self.end_of_text] = END_OF_TEXT.encode()
        return tokens

    def without_token(self, n_ids: int) -> Tensor | None:
        """A mask (n_ids,) of the ids of a model that have no token; None if all have one.

        A model has such ids if its vocabulary is padded, if the text was too short to learn as many
        tokens, or if the vocabulary has gaps.
        """
        unused = torch.ones(n_ids, dtype=torch.bool)
        unused[[i for i in self._bytes if i < n_ids]] = False
        return unused if bool(unused.any()) else None

    @cached_property
    def byte_lengths(self) -> Tensor:
        """Bytes of text (vocab_size,) that each id stands for; 0 for the special token and unused
        ids.
        """
        lengths = torch.zeros(self.vocab_size, dtype=torch.long)
        lengths[list(self._bytes)] = torch.tensor([len(token) for token in self._bytes.values()])
        lengths[self.end_of_text] = 0
        return lengths

    def state_dict(self) -> dict[str, Any]:
        """Everything that a `StoredTokenizer` needs to be this one, as plain data."""
        ranks = self.encoding._mergeable_ranks
        tokens = [""] * (
            max(ranks.values()) + 1
        )  # in hex, in the place of their ids; "" for an id without a token
        for token, i in ranks.items():
            tokens[i] = token.hex()
        return {
            "name": self.encoding.name,
            "pattern": self.encoding._pat_str,
            "tokens": tokens,
            "end_of_text": self.end_of_text,
            "vocab_size": self.vocab_size,
        }


def pieces(text: str, size: int) -> Iterator[str]:
    """`text` in pieces of `size` to twice as many characters that have the same ids as the whole.

    The cuts are before single spaces between words, where GPT-2's pattern always cuts. Only if
    there is none within `size` characters, a cut may be inside a word or a run of spaces.
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
    """The tokenizer stored in a checkpoint.

    Its pattern may come from anybody, and take time quadratic in the text or worse, so its time is
    limited.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.vocab_size = int(state["vocab_size"])
        if self.vocab_size > MAX_VOCAB:
            raise ValueError(
                f"vocab_size ({shorten(str(self.vocab_size))}) must be at most {MAX_VOCAB:,}"
            )
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
        if (
            encoding.decode_bytes(self._limited(encoding.encode_ordinary, _SAMPLE))
            != _SAMPLE.encode()
        ):
            raise ValueError("its pattern does not cut every text into words")
        return encoding

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        return self._limited(partial(super().encode, special_tokens=special_tokens), text)

    def _encode_piece(self, text: str) -> np.ndarray:
        return self._limited(super()._encode_piece, text)

    def _limited(self, encode: Callable[[str], Any], text: str) -> Any:
        """`encode(text)`, within limits of time if the pattern is not known to be fast.

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
            except BaseException as error:  # a panic in tiktoken's Rust is not an Exception
                failures.append(error)

        pattern = shorten(repr(self.state["pattern"]))
        if self.state["pattern"] in KNOWN_PATTERNS:
            run()
        else:
            # A thread cannot be stopped: one that takes too long is abandoned, and ends with the
            # process.
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
