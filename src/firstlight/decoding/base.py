"""The contract of a decoding strategy, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from firstlight.model.base import LanguageModel

Stop = Callable[[Sequence[int]], bool]
"""Is a continuation complete with these new ids?"""


@dataclass
class Continuation:
    """What a strategy has added to a prompt."""

    ids: list[int] = field(default_factory=list)
    """The new tokens, with the end-of-text token if that ended them."""
    logprobs: list[float] = field(default_factory=list)
    """Natural logarithm of the probability that the model itself gave to each (no temperature, no filters)."""
    finish_reason: Literal["end_of_text", "stop", "length"] = "length"
    score: float | None = None
    """What a search ranks it by."""


class Decoding(ABC):
    """A way to continue prompts."""

    draws: bool = False
    """Does it draw random numbers, so that several samples of a prompt differ?"""

    def check(self, model: LanguageModel, num_samples: int = 1) -> None:
        """Refuse a model, or a number of samples, that this strategy cannot serve.

        Raises:
            ValueError: what does not fit.
        """
        if num_samples > 1 and not self.draws:
            raise ValueError(f"num_samples ({num_samples}) must be 1: it gives one text (decoding=sample draws others)")

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
        """Continue each of `prompts`, ids of any length from 1 on, by up to `max_new_tokens`: `num_samples` times each.

        Every row ends on its own, at `eos_id` or when `stop` says so. What is drawn for a prompt is a function of its
        seed (one of `seeds` a prompt; null: `derived_seed(0, prompt=number)`) and the number of the sample alone.
        The mask `unused` (V,) marks the model's ids that stand for no token of its tokenizer
        (`Tokenizer.without_token`): they are never chosen.
        """


def derived_seed(seed: int, *, prompt: int = 0, sample: int = 0) -> int:
    """The seed of a prompt and of a sample by their numbers; that of the first of both is `seed` itself."""
    if prompt == sample == 0:
        return seed
    return int(np.random.SeedSequence([seed, prompt, sample]).generate_state(1, np.uint64)[0])


def finish_reason(
    new_ids: Sequence[int], *, max_new_tokens: int, eos_id: int | None, stop: Stop | None
) -> Literal["end_of_text", "stop", "length"] | None:
    """Why a continuation with `new_ids` is complete, or None while it is not."""
    if new_ids[-1] == eos_id:
        return "end_of_text"
    if stop is not None and stop(new_ids):
        return "stop"
    return "length" if len(new_ids) >= max_new_tokens else None
