"""The contract of a decoding strategy, and the continuations it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from firstlight.model.base import LanguageModel

Stop = Callable[[Sequence[int]], bool]
"""Tells whether a continuation with these new ids is complete."""


@dataclass
class Continuation:
    """The tokens that a strategy added to a prompt."""

    ids: list[int] = field(default_factory=list)
    """The new ids, including end-of-text if that ended them."""
    logprobs: list[float] = field(default_factory=list)
    """Each token's log-probability (natural) under the model, before temperature and filters."""
    finish_reason: Literal["end_of_text", "stop", "length"] = "length"
    score: float | None = None
    """The score by which a search ranked it; None without a search."""


class Decoding(ABC):
    """A strategy for continuing prompts."""

    draws: bool = False
    """Whether it draws random numbers, so that samples of a prompt differ."""

    def check(self, model: LanguageModel, num_samples: int = 1) -> None:
        """Check that this strategy fits the model and the number of samples.

        Raises:
            ValueError: it does not.
        """
        if num_samples > 1 and not self.draws:
            raise ValueError(
                f"num_samples ({num_samples}) must be 1: this strategy has one text per prompt; use"
                " decoding=sample to draw several"
            )

    @abstractmethod
    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
        eos_id: int | None = None,
        stop: Stop | None = None,
        unused: Tensor | None = None,
    ) -> list[list[Continuation]]:
        """Continue each of `prompts` `num_samples` times; return a list of continuations for each.

        Args:
            prompts: ids, at least one each.
            max_new_tokens: the limit for each continuation, which may end earlier.
            seeds: one for each prompt (None: derived from 0). Random draws depend only on the
                prompt's seed and the number of the sample, not on the other prompts.
            eos_id: the id that ends a continuation.
            stop: ends a continuation when it returns True.
            unused: a mask (V,) of the model's ids without a token (`Tokenizer.without_token`),
                which are never chosen.
        """


def derived_seed(seed: int, *, prompt: int = 0, sample: int = 0) -> int:
    """Derive the seed of prompt and sample by number; `seed` itself for the first of both."""
    if prompt == sample == 0:
        return seed
    # Spread by numpy's SeedSequence: seed + number would give the samples of one prompt the seeds
    # of another's.
    return int(np.random.SeedSequence([seed, prompt, sample]).generate_state(1, np.uint64)[0])


def finish_reason(
    new_ids: Sequence[int], *, max_new_tokens: int, eos_id: int | None, stop: Stop | None
) -> Literal["end_of_text", "stop", "length"] | None:
    """Return why a continuation with `new_ids` is complete, or None while it is not."""
    # In this order: a text that ends by itself in its last place has not been cut off.
    if new_ids[-1] == eos_id:
        return "end_of_text"
    if stop is not None and stop(new_ids):
        return "stop"
    return "length" if len(new_ids) >= max_new_tokens else None
