"""Windows over tokens that stay on disk: across documents, or within each of them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.data.shards.documents import DocumentStarts
from firstlight.data.shards.shard import Shard
from firstlight.data.windows import Windows


class ShardTokens:
    """The tokens of several shards, one shard after another, as one sequence."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self.ends = np.cumsum([shard.n_tokens for shard in shards], dtype=np.int64)
        self.begins = self.ends - [shard.n_tokens for shard in shards]

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.shards else 0

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself: the tokens must not go through a pipe.
        return {key: value for key, value in vars(self).items() if key != "mapped"}

    @cached_property
    def mapped(self) -> list[np.ndarray]:
        """The tokens of each shard."""
        return [shard.tokens(at_random=True) for shard in self.shards]

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Copy the `length` tokens from each of `starts` (B,) on: (B, length), int64."""
        # int64, which embeddings and cross_entropy take; the files have 16 bits or 32.
        taken = np.empty((len(starts), length), dtype=np.int64)
        # The right side: a token at the end of a shard is the first one of the next.
        places = np.searchsorted(self.ends, starts, side="right")
        offsets = starts - self.begins[places]
        for row, place, offset in zip(taken, places.tolist(), offsets.tolist(), strict=True):
            part = self.mapped[place][offset : offset + length]
            if len(part) == length:
                row[:] = part
            else:
                self._fill(row, place, offset)
        return taken

    def _fill(self, row: np.ndarray, place: int, offset: int) -> None:
        """Fill `row` with tokens of several shards, from `offset` in number `place` on."""
        done = 0
        while done < len(row):
            part = self.mapped[place][offset : offset + len(row) - done]
            row[done : done + len(part)] = part
            done, place, offset = done + len(part), place + 1, 0


class ShardWindows(Windows):
    """Windows over the tokens of shards, one every `stride` tokens, across documents."""

    def __init__(self, tokens: ShardTokens, *, context_length: int, stride: int) -> None:
        self.tokens, self.context_length, self.stride = tokens, context_length, stride
        self.n_tokens = len(tokens)
        # One token less: the last token of a window has a target, too.
        self.n_windows = max((self.n_tokens - 1 - context_length) // stride + 1, 0)
        last_target = (self.n_windows - 1) * stride + context_length if self.n_windows else 0
        self.rest_start, self.n_rest = last_target, max(self.n_tokens - last_target - 1, 0)

    def __len__(self) -> int:
        return self.n_windows

    def __getitem__(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        if self.is_rest(index):
            chunk = self.tokens.take(np.array([self.rest_start]), self.n_rest + 1)
        else:
            chunk = self.tokens.take(self.starts(np.asarray(index)), self.context_length + 1)
        ids = torch.from_numpy(chunk)
        return ids[:, :-1], ids[:, 1:]

    def starts(self, index: np.ndarray) -> np.ndarray:
        """Return the places of the first tokens of windows (B,): (B,)."""
        return index * self.stride

    def n_before(self, n_shards: int) -> int:
        """Count the windows that start in the first `n_shards` shards."""
        # Rounded up: the window that begins in the last of them may end beyond it.
        n_tokens = int(self.tokens.ends[n_shards - 1])
        return min(-(-n_tokens // self.stride), self.n_windows)

    def without_overlap(self) -> Windows:
        return ShardWindows(
            self.tokens, context_length=self.context_length, stride=self.context_length
        )

    def chunks(self) -> Iterator[np.ndarray]:
        for shard in self.tokens.shards:
            yield from shard.blocks()


class DocumentWindows(ShardWindows):
    """Windows each of which is within one document.

    What is left of a document after its last whole window, and a document too short for one, is in
    none. The last target of a window may be the `end_of_text` after its document.
    """

    def __init__(
        self,
        tokens: ShardTokens,
        *,
        context_length: int,
        stride: int,
        documents: Sequence[DocumentStarts],
    ) -> None:
        super().__init__(tokens, context_length=context_length, stride=stride)
        self.documents = list(documents)
        for part in self.documents:
            part.count(context_length, stride)
        self.window_ends = np.cumsum([part.n_windows for part in self.documents], dtype=np.int64)
        self.n_windows, self.n_rest = int(self.window_ends[-1]), 0

    def starts(self, index: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self.window_ends, index, side="right")
        starts = np.empty(len(index), dtype=np.int64)
        for place in np.unique(places):
            here = places == place
            part = self.documents[place]
            numbers = index[here] - (self.window_ends[place] - part.n_windows)
            starts[here] = self.tokens.begins[place] + part.starts_of(numbers)
        return starts

    def n_before(self, n_shards: int) -> int:
        return int(self.window_ends[n_shards - 1])

    def without_overlap(self) -> Windows:
        return DocumentWindows(
            self.tokens,
            context_length=self.context_length,
            stride=self.context_length,
            documents=[part.again() for part in self.documents],
        )
