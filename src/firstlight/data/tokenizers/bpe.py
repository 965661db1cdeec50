"""Byte-level BPE (Sennrich et al. 2016) learned from the training split."""

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tiktoken
from pydantic import Field
from tiktoken_ext.openai_public import r50k_pat_str

from firstlight.data.cache import cache_dir
from firstlight.data.files import read_limited
from firstlight.data.tokenizers.base import END_OF_TEXT, Tokenizer, pieces
from firstlight.data.tokenizers.huggingface import byte_of_character
from firstlight.files import replacing, temporary_of
from firstlight.output import note


class BPETokenizer(Tokenizer):
    """`vocab_size` ids: 256 bytes, merges learned from the training split, `<|endoftext|>`.

    A vocabulary is learned once per text and size, then read from the cache. A short text yields
    fewer merges.
    """

    is_learned = True

    def __init__(self, *, vocab_size: Annotated[int, Field(ge=257, le=2**20)]) -> None:
        self.vocab_size = vocab_size

    @property
    def recipe(self) -> Any:
        return ["bpe", self.vocab_size, version("tokenizers")]

    def build(self, documents: list[str]) -> tiktoken.Encoding:
        # The name of the cached file is a hash of all that decides the vocabulary.
        content = hashlib.sha256(str(self.vocab_size).encode())
        for document in documents:
            content.update(b"\0" + document.encode())
        file = cache_dir() / "tokenizers" / f"{content.hexdigest()}.tiktoken"
        try:
            ranks = _read(file)
        except ValueError as error:
            note(f"the vocabulary in the cache ({file}) is damaged ({error}): learning it again")
            ranks = None
        if ranks is None:
            ranks = _learn(documents, self.vocab_size - 1)
            _write(file, ranks)
        n_ids = len(ranks) + 1
        if n_ids < self.vocab_size:
            self.note = (
                f"the text is too short for tokenizer.vocab_size={self.vocab_size}: {n_ids:,} ids"
                f" were learned, and the other {self.vocab_size - n_ids:,} stand for no text and"
                f" are never sampled; tokenizer.vocab_size={n_ids} leaves them out"
            )
        special_tokens = {END_OF_TEXT: len(ranks)}
        return tiktoken.Encoding(
            name="bpe", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special_tokens
        )


def _learn(documents: list[str], n_tokens: int) -> dict[bytes, int]:
    """Learn tokens and their ranks with Hugging Face's trainer.

    Its ByteLevel pre-tokenizer cuts words by GPT-2's pattern, as `r50k_pat_str` does in encoding.
    """
    # Late: the package takes a moment, and a cached vocabulary does not need it.
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_to_learn_from(documents), trainer)
    byte_of = byte_of_character()
    ranks: dict[bytes, int] = {}
    for token, rank in tokenizer.get_vocab().items():
        ranks[bytes([byte_of[character] for character in token])] = rank
    return ranks


def _to_learn_from(documents: list[str]) -> Iterator[str]:
    """Yield the documents in pieces, leaving out long words beyond `MOST_UNBROKEN` characters."""
    unbroken = 0
    for document in documents:
        for piece in pieces(document, 256):
            # The regular expression is slow, so pieces with spaces inside are passed at once.
            if " " not in piece.strip() and _UNBROKEN.search(piece):
                unbroken += len(piece)
                if unbroken > MOST_UNBROKEN:
                    continue
            yield piece


MOST_UNBROKEN = 2**23
"""Limit for characters in very long words, each of which costs the trainer 80 bytes and 4 us."""
_UNBROKEN = re.compile(r"\w{200}|[^\w\s]{200}|\s{200}")


def _read(file: Path) -> dict[bytes, int] | None:
    """Read ranks in tiktoken's file format, below a line with the SHA-256 of the rest.

    Returns None if the file does not exist, or is of an earlier version, which has no checksum.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = read_limited(file)
    except OSError:
        # Missing or unreadable: the vocabulary can be learned again.
        return None
    digest, _, lines = content.partition(b"\n")
    if re.fullmatch(rb"[0-9a-f]{64}", digest) is None:
        return None
    if digest.decode() != hashlib.sha256(lines).hexdigest():
        raise ValueError("its checksum is wrong")
    ranks: dict[bytes, int] = {}
    for line in lines.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def _write(file: Path, ranks: dict[bytes, int]) -> None:
    """Write `ranks`; the file appears whole even if two runs learn the same vocabulary at once."""
    by_rank = sorted(ranks, key=ranks.__getitem__)
    lines = b"".join([base64.b64encode(token) + b" %d\n" % ranks[token] for token in by_rank])
    digest = hashlib.sha256(lines).hexdigest().encode()
    # A cache that cannot be written only costs the time to learn again.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, "wb", through=temporary_of(file, str(os.getpid()))) as stream:
            stream.write(digest + b"\n" + lines)
