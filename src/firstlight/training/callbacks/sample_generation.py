"""Generates a sample from the model after each evaluation, to show how it is learning."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from firstlight.config import NewTokens, Seed
from firstlight.data.files import read_limited
from firstlight.data.leakage import LEAST_N, MOST_N, SEARCHED
from firstlight.decoding.base import Decoding
from firstlight.files import append, open_to_append, sync
from firstlight.runs.run_folder import SAMPLES
from firstlight.runs.samples_file import end_of_samples, entry
from firstlight.training.callbacks.base import Watcher
from firstlight.training.copied import found_in_training, is_searched, what_is_searched
from firstlight.training.module import PretrainingModule
from firstlight.training.plan import Plan
from firstlight.training.sampling import continued
from firstlight.training.trainer import Trainer

BYTES = "samples_bytes"
"""Key of a checkpoint: see `SampleGeneration.on_save_checkpoint`."""
STATE_OF_EARLIER = "SampleGeneration{"
"""How earlier versions named the state of each callback that kept it."""


class SampleGeneration(Watcher):
    """Continues `prompt` after each evaluation, by at most `max_new_tokens` tokens.

    Its own random generator starts from `seed` each time.

    Samples are shown on every board and written to `samples.txt` in the run folder.

    What a continuation has copied from the training text is said with it, and logged: its longest
    run there, and the share of its n-grams of `copied` tokens beside validation's
    (docs/memorisation.md). In a training text of more than `search_tokens` only the last sample is
    looked for, and in one of many times as much none.
    """

    def __init__(
        self,
        *,
        prompt: Annotated[str, Field(min_length=1)],
        decoding: Decoding,
        max_new_tokens: NewTokens = 50,
        seed: Seed = 0,
        copied: Annotated[int, Field(ge=LEAST_N, le=MOST_N)] | Literal["auto"] | None = "auto",
        search_tokens: Annotated[int, Field(gt=0, le=10**12)] = SEARCHED,
    ) -> None:
        self.prompt, self.decoding = prompt, decoding
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.copied, self.search_tokens = copied, search_tokens
        self.file: Path | None = None
        self.bytes: int | None = None
        """Size of the samples file when the checkpoint was saved; None if the checkpoint does not
        record it."""

    def check(self, plan: Plan) -> None:
        try:
            self.decoding.check(plan.network)
        except ValueError as error:
            raise ValueError(f"decoding: {error}") from error
        n_tokens = plan.data.windows["train"].n_tokens
        less = what_is_searched(n_tokens, self.search_tokens)
        if self.copied is not None and less is not None:
            plan.notes.append(less)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: PretrainingModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store how many bytes of the samples file belong to the steps up to this one.

        Not in this callback's own state: all callbacks that sample share the file, and the prompt
        may have changed when the run is resumed.
        """
        checkpoint[BYTES] = (
            self.file.stat().st_size if self.file is not None and self.file.is_file() else 0
        )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: PretrainingModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint["callbacks"].items()
        earlier = [state["bytes"] for key, state in states if str(key).startswith(STATE_OF_EARLIER)]
        self.bytes = checkpoint.get(BYTES, earlier[0] if earlier else None)

    def on_train_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        """Remove the samples that were written after the checkpoint that is resumed."""
        self.file = file = trainer.folder / SAMPLES
        if not trainer.is_global_zero or not file.is_file():
            return
        if trainer.global_step == 0:
            self.bytes = 0
        elif self.bytes is None:  # a checkpoint of an earlier version of firstlight
            self.bytes = end_of_samples(read_limited(file), trainer.global_step)
        if file.stat().st_size > self.bytes:
            with open_to_append(file, "ab") as stream:
                stream.truncate(self.bytes)
                sync(stream)

    def on_validation_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        # By the first process, which takes nothing from training; where each has only a part of the
        # weights, by all together, and it is the same sample.
        if not (trainer.is_global_zero or trainer.is_sharded):
            return
        sample = continued(
            trainer,
            self.decoding,
            self.prompt,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )
        if not trainer.is_global_zero:
            return
        copied = self._copied(trainer, sample.new_ids)
        written = entry(trainer.global_step, sample.text, copied)
        append(trainer.folder / SAMPLES, written.encode())
        trainer.log_text("sample", f"{sample.text}\n\n({copied})" if copied else sample.text)

    def _copied(self, trainer: Trainer, new_ids: list[int]) -> str:
        """Log what a continuation has copied, and say it; "" if that is not looked for."""
        step, clock = trainer.global_step, trainer.clock
        if self.copied is None or not is_searched(step, clock, self.search_tokens):
            return ""
        n = self.copied if isinstance(self.copied, int) else None
        found = found_in_training(new_ids, clock.data, n)
        trainer.collect(found.metrics)
        return str(found)
