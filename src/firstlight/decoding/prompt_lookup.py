"""Speculative decoding without a second model: guess that the text continues as it did after the
same words before.

Leviathan et al. 2023 (speculative decoding), Saxena 2023 (prompt lookup). A guess is computed
together with the token before it, in one pass over the weights, and is used only if the strategy
chooses that very token. So greedy and sampled text have the same tokens, and the same random draws,
as plain decoding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.decoding.context import Context
from firstlight.model.base import LanguageModel


class NGrams:
    """An index of growing ids: where each run of `shortest` to `longest` of them ended last."""

    def __init__(self, ids: Sequence[int] = (), *, shortest: int = 2, longest: int = 3) -> None:
        self.shortest, self.longest = shortest, longest
        self.ids: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Add ids; a run is in the index once another id has followed it."""
        for new in ids:
            end = len(self.ids)
            for length in range(self.shortest, min(self.longest, end) + 1):
                self.ends[tuple(self.ids[end - length :])] = end
            self.ids.append(new)

    def after(self, recent: Sequence[int], n: int) -> list[int]:
        """Up to `n` ids that followed the longest known run at the end of `recent`, where it
        occurred last.
        """
        for length in range(min(self.longest, len(recent)), self.shortest - 1, -1):
            end = self.ends.get(tuple(recent[len(recent) - length :]))
            if end is not None:
                return self.ids[end : end + n]
        return []


class PromptLookup(Context):
    """A context of one row that computes guesses of the next tokens along with each token.

    Guesses come from the row's own ids, then from `text`. A pass over several tokens costs more
    than one over a single token. So after a pass with fewer than `PAYS` right guesses the wait
    until the next attempt doubles, and after any other it is halved: text without repetitions costs
    little. The rule counts tokens instead of seconds, so that the same text is always computed in
    the same passes.
    """

    PAYS = 2

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        *,
        max_guesses: int,
        text: NGrams | None = None,
    ) -> None:
        assert len(prompts) == 1, "rows of a batch would keep different numbers of guesses"
        super().__init__(model, prompts)
        self.max_guesses = max_guesses
        self.own = NGrams(prompts[0])
        self.text = text or NGrams()
        self.guesses: list[int] = []
        self.ahead: list[Tensor] = []  # logits (1, 1, V) after each of them
        self.n_right = 0
        self.wait = 0  # tokens until the next attempt
        self.next_wait = 0

    def append(self, ids: Tensor) -> Tensor:
        """See `Context.append`; `ids` (1, 1)."""
        token = int(ids)
        self.own.extend([token])
        if self.guesses and self.guesses[0] == token:
            self.n_right += 1
            self.guesses.pop(0)
            return self.ahead.pop(0)
        self._settle()
        self.guesses = self._guess()
        logits = super().append(
            torch.tensor([[token, *self.guesses]], device=ids.device)
        )  # (1, 1 + guesses, V)
        now, *self.ahead = logits.split(1, dim=1)
        return now

    def _settle(self) -> None:
        """Remove wrong guesses, and wait longer if too few were right."""
        if not self.guesses and self.n_right == 0:
            return
        if self.guesses:
            self.drop(len(self.guesses))
        if self.n_right >= self.PAYS:
            self.next_wait //= 2
        else:
            self.next_wait = max(2, 2 * self.next_wait)
        self.wait = self.next_wait
        self.n_right = 0

    def _guess(self) -> list[int]:
        wanted = min(self.max_guesses, self.room - 1)
        if self.wait > 0 or wanted < self.PAYS:
            self.wait -= 1
            return []
        recent = self.own.ids[-self.own.longest :]
        found = self.own.after(recent, wanted)
        if found:  # fewer than wanted if they reach the end of the text: then it may repeat itself
            return [found[n % len(found)] for n in range(wanted)]
        return self.text.after(recent, wanted)
