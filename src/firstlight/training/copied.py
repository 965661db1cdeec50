"""What the samples of a run have copied from its training text."""

from dataclasses import dataclass

from firstlight.data.token_data import TokenDataModule
from firstlight.errors import counted
from firstlight.memorisation import Copies, copies
from firstlight.memorisation.words import in_words
from firstlight.training.clock import Clock

OF_LAST = 32
"""How many times `most` tokens a text may have of which the last sample alone is looked for."""


@dataclass(frozen=True)
class Found:
    """What a sample has copied, and how often the same happens to a text nobody has copied."""

    copies: Copies
    base_rate: float | None
    """The share of n-grams of validation that stand in training; None if it has no n-gram."""

    def __str__(self) -> str:
        return in_words(self.copies, self.base_rate)

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged."""
        longest = self.copies.longest
        found = {"copied/longest": float(longest.length if longest is not None else 0)}
        if self.copies.share is not None:
            found["copied/sample"] = self.copies.share
        if self.base_rate is not None:
            found["copied/validation"] = self.base_rate
        return found


def found_in_training(ids: list[int], data: TokenDataModule, n: int | None) -> Found:
    """Look for the ids of a sample in the training text of `data`; None: n as `Leakage` has it."""
    leakage = data.leakage(n)
    return Found(copies(ids, data.windows["train"].chunks(), leakage.n), leakage.share)


def is_searched(step: int, clock: Clock, most: int) -> bool:
    """Whether the sample of a step is looked for, where `most` tokens may be read for each."""
    n_tokens = clock.data.windows["train"].n_tokens
    return n_tokens <= most or (step == clock.max_steps and n_tokens <= OF_LAST * most)


def what_is_searched(n_tokens: int, most: int) -> str | None:
    """Say that not all samples are looked for in a text of `n_tokens`; None: they are."""
    if n_tokens <= most:
        return None
    if n_tokens <= OF_LAST * most:
        rest = f"only the sample after the last step is looked for in it (search_tokens={most})"
    else:
        rest = f"no sample is looked for in it (search_tokens={most}); generate copied=auto does it"
    return f"the training text has {counted(n_tokens, 'token')}: {rest}"
