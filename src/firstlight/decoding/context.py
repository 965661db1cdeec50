"""The tokens of several rows and the model's cache of them, with a sliding window."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from firstlight.model.base import LanguageModel
from firstlight.model.cache import Cache


class Context:
    """Rows of ids, aligned at the right, that are extended by one or a few tokens at a time.

    While the longest row fits into the model's context, each token is computed once. Beyond that
    the window slides: the last `context_length` tokens are recomputed for each new one, because
    all their positions have changed. The logits are those of an uncached loop over each row alone.
    A model without a cache recomputes its whole window for each new token.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        assert all(prompts), "the first token of an empty prompt has nothing to depend on"
        lengths = [len(prompt) for prompt in prompts]
        rows = [[0] * (max(lengths) - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(rows, device=model.device)  # (B, T)
        self.lengths = torch.tensor(lengths, device=model.device)  # (B,)
        self.cache: Cache | None = model.new_cache()
        self.is_behind = False
        """Whether the cache still has tokens that were dropped, because it cannot rewind."""

    @property
    def room(self) -> int:
        """Number of tokens that can be appended before the window slides."""
        return self.model.context_length - self.ids.shape[1]

    def start(self) -> Tensor:
        """Compute the logits (B, V) after the prompts."""
        return self._window(1)[:, 0]  # (B, V)

    def append(self, ids: Tensor) -> Tensor:
        """Append `ids` (B, n) and return the logits (B, n, V) after each of them.

        n must be 1 if it exceeds `room`.
        """
        n_tokens = ids.shape[1]
        assert n_tokens == 1 or n_tokens <= self.room
        self.ids = torch.cat([self.ids, ids], dim=1)  # (B, T + n)
        self.lengths = self.lengths + n_tokens
        if self.cache is None or self.is_behind or n_tokens > self.cache.room:
            return self._window(n_tokens)
        return self.model.project(self.model.hidden(ids, self.cache))  # (B, n, V)

    def drop(self, n_tokens: int) -> None:
        """Remove the last `n_tokens`, since which the window must not have slid."""
        self.ids = self.ids[:, : self.ids.shape[1] - n_tokens]  # (B, T - n)
        self.lengths = self.lengths - n_tokens
        if self.cache is not None and self.cache.can_rewind:
            self.cache.rewind(self.cache.length - n_tokens)
        else:
            self.is_behind = True

    def select(self, rows: Tensor) -> None:
        """Keep the rows with the numbers `rows` (B',), in this order; rows may repeat."""
        self.ids, self.lengths = self.ids[rows], self.lengths[rows]
        if self.cache is not None:
            self.cache.select(rows)

    def _window(self, n_last: int) -> Tensor:
        """Compute the window from scratch; return the logits (B, n, V) after its last n tokens."""
        window = self.ids[:, -self.model.context_length :]  # (B, T)
        padding = (window.shape[1] - self.lengths).clamp(min=0)  # (B,)
        if self.cache is None:
            return self.model.project(self._uncached(window, padding, n_last))
        self.is_behind = False
        self.cache.rewind(0)
        # Without padding attention needs no mask, and may use a faster kernel.
        self.cache.padding = padding if bool(padding.any()) else None
        return self.model.project(self.model.hidden(window, self.cache)[:, -n_last:])

    def _uncached(self, window: Tensor, padding: Tensor, n_last: int) -> Tensor:
        """Compute hidden states (B, n, C) of the last n tokens of `window` (B, T) without a cache.

        Rows are moved to the left, so that their padding is at the end, where no token of a causal
        model sees it.
        """
        last = window.shape[1] - 1
        places = torch.arange(window.shape[1], device=window.device) + padding[:, None]  # (B, T)
        hidden = self.model.hidden(window.gather(1, places.clamp(max=last)))  # (B, T, C)
        wanted = torch.arange(last + 1 - n_last, last + 1, device=window.device)  # (n,)
        wanted = (wanted - padding[:, None])[:, :, None]  # (B, n, 1)
        return hidden.gather(1, wanted.expand(-1, -1, hidden.shape[2]))  # (B, n, C)


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Put `model` into evaluation mode for the duration of the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
