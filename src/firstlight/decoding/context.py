"""The tokens of several rows and the model's cache of them: the only place where a window
slides."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from firstlight.model.base import LanguageModel


class Context:
    """Rows of ids, aligned at the right, that are extended by one or a few tokens at a time.

    While the longest row fits into the model's context, each new token is computed once. Beyond it
    the window slides: the last `context_length` tokens are computed anew for each new one, because
    with learned positions all of them have moved. The logits are those of an uncached loop over
    each row alone.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        assert all(prompts), "the first token of an empty prompt has nothing to depend on"
        lengths = [len(prompt) for prompt in prompts]
        rows = [[0] * (max(lengths) - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(rows, device=model.device)  # (B, T)
        self.lengths = torch.tensor(lengths, device=model.device)  # (B,)
        self.cache = model.new_cache()

    @property
    def room(self) -> int:
        """Tokens that can be appended before the window slides."""
        return self.model.context_length - self.ids.shape[1]

    def start(self) -> Tensor:
        """Logits (B, V) for the tokens after the prompts."""
        return self._window()[:, 0]  # (B, V)

    def append(self, ids: Tensor) -> Tensor:
        """Append `ids` (B, n) and return the logits (B, n, V) after each of them; without `room` n
        must be 1.
        """
        assert ids.shape[1] == 1 or ids.shape[1] <= self.room
        self.ids = torch.cat([self.ids, ids], dim=1)
        self.lengths = self.lengths + ids.shape[1]
        if ids.shape[1] > self.cache.room:
            return self._window()
        return self.model.project(self.model.hidden(ids, self.cache))

    def drop(self, n_tokens: int) -> None:
        """Remove the last `n_tokens`, for which the window must not have slid."""
        self.ids = self.ids[:, : self.ids.shape[1] - n_tokens]
        self.lengths = self.lengths - n_tokens
        self.cache.rewind(self.cache.length - n_tokens)

    def select(self, rows: Tensor) -> None:
        """Keep the rows of these numbers (B',), in this order; a row may be taken several times."""
        self.ids, self.lengths = self.ids[rows], self.lengths[rows]
        self.cache.select(rows)

    def _window(self) -> Tensor:
        window = self.ids[:, -self.model.context_length :]
        padding = (window.shape[1] - self.lengths).clamp(min=0)
        self.cache.rewind(0)
        self.cache.padding = (
            padding if bool(padding.any()) else None
        )  # without padding attention needs no mask
        return self.model.project(self.model.hidden(window, self.cache)[:, -1:])  # (B, 1, V)


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Put `model` into evaluation mode for the duration of the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
