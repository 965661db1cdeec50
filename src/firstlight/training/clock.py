"""How long a run is, and what is due after which of its steps."""

import math
from dataclasses import dataclass
from typing import Self

from firstlight.data.token_data import TokenDataModule


@dataclass(frozen=True)
class Clock:
    """Counts a run in optimizer steps, from 1; each answer is a function of the step.

    There is one clock in a run.

    `batches_per_step` are accumulated into one step. Evaluations come after the steps n, 2n, ...
    (`eval_every_n_steps`) and after the last one; with `eval_first_step` f after f, f + n, ...
    instead.
    """

    data: TokenDataModule
    max_steps: int
    batches_per_step: int
    log_every_n_steps: int
    eval_every_n_steps: int
    eval_first_step: int | None

    @classmethod
    def of(
        cls,
        data: TokenDataModule,
        *,
        max_steps: int | None,
        max_epochs: float | None,
        max_tokens: int | None,
        batches_per_step: int,
        log_every_n_steps: int,
        eval_every_n_steps: int,
        eval_first_step: int | None,
    ) -> Self:
        """The clock of a run over `data`, whose length is one of the first three.

        Raises:
            ValueError: not exactly one length is given, or it is less than a step.
        """
        lengths = {"max_steps": max_steps, "max_epochs": max_epochs, "max_tokens": max_tokens}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                "exactly one of max_steps, max_epochs and max_tokens must be set, not "
                f"{' and '.join(given) or 'none'}; set the others to null"
            )
        steps = max_steps or 0
        if max_epochs is not None:
            # Rounded first: 1.1 epochs of 50 batches are 55 steps, and not 55.00000000000001, which
            # are 56.
            steps = math.ceil(round(max_epochs * data.batches_per_epoch / batches_per_step, 6))
        if max_tokens is not None:
            tokens_per_step = data.batch_size * data.context_length * batches_per_step
            # Rounded down: a budget of tokens is not exceeded.
            steps = max_tokens // tokens_per_step
            if steps == 0:
                raise ValueError(
                    f"max_tokens ({max_tokens}) must be at least {tokens_per_step}, the tokens of"
                    " one step"
                )
        return cls(
            data, steps, batches_per_step, log_every_n_steps, eval_every_n_steps, eval_first_step
        )

    @property
    def total_batches(self) -> int:
        """Training batches of the whole run."""
        return self.max_steps * self.batches_per_step

    def is_eval_step(self, step: int) -> bool:
        """Is the model evaluated after `step`?"""
        if step == self.max_steps:
            return True
        first = self.eval_first_step or self.eval_every_n_steps
        return step >= first and (step - first) % self.eval_every_n_steps == 0

    @property
    def n_evaluations(self) -> int:
        """How many evaluations the whole run has, without that of the untrained model."""
        first, every = self.eval_first_step or self.eval_every_n_steps, self.eval_every_n_steps
        if self.max_steps < first:
            return 1  # after the last step
        regular, rest = divmod(self.max_steps - first, every)
        return regular + 1 + int(rest > 0)

    def is_log_step(self, step: int) -> bool:
        """Does `step` get a row in the logs, whether or not a callback asks for one?"""
        return step % self.log_every_n_steps == 0 or self.is_eval_step(step)

    def tokens_after(self, step: int) -> int:
        """Training tokens of the first `step` steps."""
        # Asked of the data: without drop_last the last batch of an epoch is smaller.
        return self.data.tokens_after(step * self.batches_per_step)

    def epochs_after(self, step: int) -> float:
        """Passes over the training windows.

        Where windows overlap, each is several passes over the text.
        """
        return step * self.batches_per_step / self.data.batches_per_epoch

    def windows_of(self, step: int) -> int:
        """Training windows of `step`, over all processes."""
        each = self.batches_per_step
        return self.data.windows_of((step - 1) * each, step * each)
