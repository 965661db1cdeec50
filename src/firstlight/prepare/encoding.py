"""Documents to tokens with all cores: results come back in the order in which work was given."""

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np
import torch

from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import RunError
from firstlight.prepare.documents import Document
from firstlight.private import processes_of
from firstlight.process_group import end_with, main_not_run_again, signals_held

CHUNK = 2**20
"""Characters, about, that are given to a process at once."""
AHEAD = 2
"""Chunks for each process that wait to be encoded or written: they bound the memory."""
Encoded = tuple[np.ndarray, list[int]]
"""The tokens of a chunk, and how many each of its documents has."""


class Encoders:
    """Processes that encode documents."""

    def __init__(self, pool: ProcessPoolExecutor, n_workers: int) -> None:
        self.pool, self.n_workers = pool, n_workers

    def encode(self, documents: Iterable[Document]) -> Iterator[tuple[Document, np.ndarray]]:
        """Yield the documents in their order, each with its tokens, which `end_of_text` begins.

        Raises:
            RunError: a process was ended from outside.
        """
        waiting: deque[tuple[list[Document], Future[Encoded]]] = deque()
        try:
            for chunk in _chunks(documents):
                waiting.append((chunk, self.pool.submit(_encode, [d.text for d in chunk])))
                if len(waiting) > AHEAD * self.n_workers:
                    done, future = waiting.popleft()
                    yield from _each(done, future.result())
            for done, future in waiting:
                yield from _each(done, future.result())
        except BrokenProcessPool:
            raise RunError(
                "a process that encodes was ended from outside, perhaps because memory ran out;"
                " give the command again, with fewer: workers=1"
            ) from None


@contextmanager
def encoders(tokenizer: Tokenizer, dtype: str, n_workers: int) -> Iterator[Encoders]:
    """Start processes that encode with `tokenizer`; they end with the block."""
    # What was imported stays: the garbage collector need not look through it again and again,
    # here and in the processes that are forked from this one.
    gc.freeze()
    # A stop signal goes to the whole group: this process ends its helpers itself.
    with signals_held(), main_not_run_again():
        pool = ProcessPoolExecutor(
            n_workers, initializer=_begin, initargs=(os.getpid(), tokenizer, dtype)
        )
        # The processes are started now, with the signals held.
        for future in [pool.submit(_encode, []) for _ in range(n_workers)]:
            future.result()
    try:
        yield Encoders(pool, n_workers)
    finally:
        for process in processes_of(pool):
            process.kill()
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


def _each(documents: list[Document], encoded: Encoded) -> Iterator[tuple[Document, np.ndarray]]:
    ids, lengths = encoded
    start = 0
    for document, length in zip(documents, lengths, strict=True):
        yield document, ids[start : start + length]
        start += length


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


_tokenizer: Tokenizer | None = None
_dtype = ""
"""In a process of the pool: what encodes, and the type of the tokens."""


def _begin(parent: int, tokenizer: Tokenizer, dtype: str) -> None:
    global _tokenizer, _dtype
    end_with(parent)
    torch.set_num_threads(1)
    _tokenizer, _dtype = tokenizer, dtype


def _encode(texts: list[str]) -> Encoded:
    assert _tokenizer is not None
    ids, lengths = _tokenizer.encode_each(texts)
    return ids.astype(_dtype), lengths
