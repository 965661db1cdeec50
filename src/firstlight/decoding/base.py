"""The contract of a decoding strategy, and the KV-cached loop that strategies which pick one token at a time share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from firstlight.model.base import LanguageModel


class Decoding(ABC):
    """A way to continue prompts."""

    @abstractmethod
    def next_token(self, logits: Tensor, generator: Generator | None = None) -> Tensor:
        """Choose ids (B,) from the logits (B, V) of one position; draws come from `generator` alone."""

    def check(self, model: LanguageModel) -> None:  # noqa: B027 (a strategy may have nothing to refuse)
        """Refuse a model that this strategy cannot decode.

        Raises:
            ValueError: what does not fit.
        """

    def generate(
        self,
        model: LanguageModel,
        ids: Tensor,
        *,
        max_new_tokens: int,
        eos_id: int | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Continue `ids` (B, T) by up to `max_new_tokens`; return (B, T + new).

        A row that has produced `eos_id` is filled up with it; the loop ends when every row has.
        """
        for column in self.stream(model, ids, max_new_tokens=max_new_tokens, eos_id=eos_id, generator=generator):
            ids = torch.cat([ids, column[:, None]], dim=1)  # (B, T + 1)
        return ids

    @torch.no_grad()
    def stream(
        self,
        model: LanguageModel,
        ids: Tensor,
        *,
        max_new_tokens: int,
        eos_id: int | None = None,
        generator: Generator | None = None,
    ) -> Iterator[Tensor]:
        """Yield the new ids (B,) one position at a time; see `generate`.

        Past the context length the window slides: the last `context_length` tokens are computed afresh for each new
        one, because with learned positions every one of them has moved. That is what an uncached loop computes.
        """
        was_training = model.training
        model.eval()
        try:
            window = ids[:, -model.context_length :]  # (B, T)
            cache = model.new_cache()
            logits = model(window, cache)[:, -1]  # (B, V)
            ended = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
            for remaining in range(max_new_tokens, 0, -1):
                column = self.next_token(logits, generator)  # (B,)
                if eos_id is not None:
                    column = torch.where(ended, eos_id, column)
                    ended |= column == eos_id
                yield column
                if remaining == 1 or bool(ended.all()):
                    return
                window = torch.cat([window, column[:, None]], dim=1)[:, -model.context_length :]
                if cache.length < model.context_length:
                    logits = model(column[:, None], cache)[:, -1]
                else:
                    logits = model(window)[:, -1]
        finally:
            model.train(was_training)
