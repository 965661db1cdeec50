"""Prompt lookup: speculative decoding that guesses from earlier text instead of a second model.

Leviathan et al. 2023 (speculative decoding), Saxena 2023 (prompt lookup). The guess is that the
text continues as it did after the same tokens before. A guess is computed together with the token
before it, in one pass over the weights, and is used only if the strategy chooses that very token.
So greedy and sampled texts have the same tokens, and the same random draws, as plain decoding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.decoding.context import Context
from firstlight.model.base import LanguageModel

SHORTEST, LONGEST = 2, 3
"""Ids in the runs that are looked up: after a single id nearly anything may follow."""


class NGrams:
    """An index of a growing text: where each run of SHORTEST to LONGEST ids last ended."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self.ids: list[int] = []
        self.ends: dict[tuple[int, ...], int] = {}
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Add ids; a run enters the index when another id follows it."""
        for new in ids:
            end = len(self.ids)
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                # Entered before the id is added: a run that ends the text has nothing after it to
                # guess.
                self.ends[tuple(self.ids[end - length :])] = end
            self.ids.append(new)

    def after(self, recent: Sequence[int], n: int) -> list[int]:
        """Find the longest known run at the end of `recent`; return up to `n` ids that followed it.

        If it occurred several times, the last one counts.
        """
        for length in range(min(LONGEST, len(recent)), SHORTEST - 1, -1):
            end = self.ends.get(tuple(recent[len(recent) - length :]))
            if end is not None:
                return self.ids[end : end + n]
        return []


class PromptLookup(Context):
    """A context of one row that computes guesses of the next tokens along with each token.

    Guesses come from the row's own ids, then from `text`. A pass over several tokens costs more
    than a pass over one. So after a pass with fewer than `PAYS` right guesses the wait until the
    next attempt doubles, and after any other it halves: text without repetitions costs little. The
    rule counts tokens instead of seconds, so that the same text is always computed in the same
    passes.
    """

    PAYS = 2
    """Right guesses that make up for the cost of a pass with guesses."""

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
        # Guesses that are computed but not confirmed, and the logits (1, 1, V) after each.
        self.guesses: list[int] = []
        self.ahead: list[Tensor] = []
        # Right guesses of the last pass.
        self.n_right = 0
        # Tokens until the next attempt, and the wait after that.
        self.wait = 0
        self.next_wait = 0

    def append(self, ids: Tensor) -> Tensor:
        """See `Context.append`; `ids` (1, 1)."""
        token = int(ids)
        self.own.extend([token])
        # A right guess: its logits are known already.
        if self.guesses and self.guesses[0] == token:
            self.n_right += 1
            self.guesses.pop(0)
            return self.ahead.pop(0)
        # A wrong guess, or none: what was computed ahead is of no use.
        self._settle()
        self.guesses = self._guess()
        together = torch.tensor([[token, *self.guesses]], device=ids.device)
        logits = super().append(together)  # (1, 1 + guesses, V)
        now, *self.ahead = logits.split(1, dim=1)
        return now

    def _settle(self) -> None:
        """Remove wrong guesses, and wait longer if too few were right."""
        # The last pass had no guesses.
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
        """Guess the next ids; [] if it is not time yet, or nothing is found."""
        # Guesses must fit into the context: they could not be dropped after the window slid.
        wanted = min(self.max_guesses, self.room - 1)
        if self.wait > 0 or wanted < self.PAYS:
            self.wait -= 1
            return []
        recent = self.own.ids[-LONGEST:]
        found = self.own.after(recent, wanted)
        if found:
            # Fewer than wanted if they reach the end of the text, which may be repeating itself.
            return [found[n % len(found)] for n in range(wanted)]
        return self.text.after(recent, wanted)
