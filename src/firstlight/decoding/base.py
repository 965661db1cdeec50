"""The contract of a decoding strategy, and its result."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from firstlight.model.base import LanguageModel

Stop = Callable[[Sequence[int]], bool]
"""Whether a continuation is complete with these new ids."""


@dataclass
class Continuation:
    """The tokens that a strategy added to a prompt."""

    ids: list[int] = field(default_factory=list)
    """The new tokens, including the end-of-text token if it ended them."""
    logprobs: list[float] = field(default_factory=list)
    """Natural logarithm of each token's probability under the model itself (without temperature and
    filters)."""
    finish_reason: Literal["end_of_text", "stop", "length"] = "length"
    score: float | None = None
    """The score by which a search ranks it."""


class Decoding(ABC):
    """A way to continue prompts."""

    draws: bool = False
    """Whether it draws random numbers, so that several samples of a prompt differ."""

    def check(self, model: LanguageModel, num_samples: int = 1) -> None:
        """Check that this strategy fits the model and the number of samples.

        Raises:
            ValueError: it does not.
        """
        if num_samples > 1 and not self.draws:
            raise ValueError(
                f"num_samples ({num_samples}) must be 1: it gives one text (decoding=sample draws"
                " others)"
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
        """Continue each of `prompts` `num_samples` times; the result has a list of continuations
        for each prompt.

        A prompt has at least one id, and gets up to `max_new_tokens` new ones. Every row ends on
        its own, at `eos_id` or when `stop` says so. Random draws for a prompt depend only on its
        seed (one of `seeds`; None: seeds derived from 0) and on the number of the sample. The mask
        `unused` (V,) marks ids of the model that have no token (`Tokenizer.without_token`): they
        are never chosen.
        """


def derived_seed(seed: int, *, prompt: int = 0, sample: int = 0) -> int:
    """The seed of a prompt and a sample, by their numbers; `seed` itself for the first of both."""
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
