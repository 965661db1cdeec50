"""The tokens of several rows beside the model's cache of them: the one place where a window slides."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from firstlight.model.base import LanguageModel


class Context:
    """Rows of ids, flush right, that are extended a token or a few at a time.

    While the longest row fits into the model's context, each new token is computed once. Past it the window slides:
    the last `context_length` tokens are computed afresh for each new one, because with learned positions every one of
    them has moved. Both are what an uncached loop over each row alone computes.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        assert all(prompts), "there is nothing before the first token of an empty prompt"
        longest = max(len(prompt) for prompt in prompts)
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(rows, device=model.device)  # (B, T)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)  # (B,)
        self.cache = model.new_cache()

    @property
    def room(self) -> int:
        """Tokens that can be appended before the window slides."""
        return self.model.context_length - self.ids.shape[1]

    def start(self) -> Tensor:
        """Logits (B, V) for the tokens after the prompts."""
        return self._window()[:, 0]  # (B, V)

    def append(self, ids: Tensor) -> Tensor:
        """Append `ids` (B, n) and return the logits (B, n, V) after each of them; n must be 1 once there is no room."""
        assert ids.shape[1] == 1 or ids.shape[1] <= self.room
        self.ids = torch.cat([self.ids, ids], dim=1)
        self.lengths = self.lengths + ids.shape[1]
        if ids.shape[1] > self.cache.room:
            return self._window()
        return self.model.project(self.model.hidden(ids, self.cache))

    def drop(self, n_tokens: int) -> None:
        """Forget the last `n_tokens`, which must not have made the window slide."""
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
        self.cache.padding = padding if bool(padding.any()) else None
        return self.model.project(self.model.hidden(window, self.cache)[:, -1:])  # (B, 1, V)


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Inside, `model` is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
