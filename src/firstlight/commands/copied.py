"""The text that a checkpoint was trained on, in which its continuations are looked for."""

from typing import Any, Literal

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.data.leakage import SEARCHED
from firstlight.decoding.base import Continuation
from firstlight.decoding.stop import StopStrings
from firstlight.errors import ConfigError, counted
from firstlight.memorisation import copies
from firstlight.memorisation.marked import Marked, marked
from firstlight.model.base import LanguageModel
from firstlight.output import note
from firstlight.training.measuring import text_of
from firstlight.training.same_text import OtherTextError

MUCH = 10 * SEARCHED
"""Tokens of a text that is read for so long that a user wants to know why."""


class TrainingText:
    """Marks what continuations have copied from the training text of a checkpoint.

    Runs of `n` tokens or more are marked; "auto": of about 50 bytes. `data` is the section of
    another text, or says where its own is now.

    Raises:
        ConfigError: the text is not known, not available, or not the one it was.
    """

    def __init__(
        self,
        loaded: Checkpoint,
        model: LanguageModel,
        n: int | Literal["auto"],
        data: dict[str, Any] | None,
    ) -> None:
        # Nothing is trained: a text may be shorter than a batch.
        section = None if data is None else data | {"drop_last": False}
        try:
            self.data = text_of(loaded, model, "train", section)
        except OtherTextError as error:
            raise ConfigError(
                f"{error}; to look for copies in another text, give data=text data.path=..."
            ) from error
        for oddity in self.data.notes:
            note(oddity)
        n_tokens = self.data.windows["train"].n_tokens
        if n_tokens > MUCH:
            note(
                f"the training text has {counted(n_tokens, 'token')}: all of it is compared with"
                " validation first, and read for each continuation, which takes a while"
            )
        leakage = self.data.leakage(None if n == "auto" else n)
        self.n, self.base_rate = leakage.n, leakage.share

    def marked(self, prompt: str, row: Continuation, stops: StopStrings) -> Marked:
        """The prompt, and the continuation up to a stop string, with its copies marked."""
        training, tokenizer = self.data.windows["train"], self.data.tokenizer
        n_bytes = len(stops.cut(tokenizer.text_bytes(row.ids)))
        ids: list[int] = []
        tokens: list[bytes] = []
        rest = n_bytes
        for i in row.ids:
            # What follows a stop is not of the text, nor is the id that ends it.
            if rest > 0 and i != tokenizer.end_of_text:
                ids.append(i)
                tokens.append(tokenizer.text_bytes([i]))
                rest -= len(tokens[-1])
        return marked(
            prompt,
            tokens,
            copies(ids, training.chunks(), self.n),
            base_rate=self.base_rate,
            n_tokens=training.n_tokens,
            n_bytes=n_bytes,
        )
