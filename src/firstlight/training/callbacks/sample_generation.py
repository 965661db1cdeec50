"""A text by the model after each evaluation, so that one can watch it learn."""

import re
from pathlib import Path
from typing import Annotated

import lightning.pytorch as pl
from pydantic import Field

from firstlight.config import NewTokens, Seed
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.decoding.base import Decoding
from firstlight.files import open_to_append, replace_text
from firstlight.model.base import LanguageModel
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer
from firstlight.training.watching import Watcher

FILE_NAME = "samples.txt"


class SampleGeneration(Watcher):
    """Continues `prompt` by `max_new_tokens`, with a generator of its own that starts from `seed` every time.

    Samples go to TensorBoard, to `samples.txt` in the run folder, and are kept as `text` for whoever shows them.
    """

    def __init__(
        self,
        *,
        prompt: Annotated[str, Field(min_length=1)],
        decoding: Decoding,
        max_new_tokens: NewTokens = 50,
        seed: Seed = 0,
    ) -> None:
        self.prompt, self.decoding = prompt, decoding
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.text: str | None = None

    def check(self, model: LanguageModel) -> None:
        """Refuse a model that cannot be sampled from as asked (ValueError)."""
        self.decoding.check(model)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        file = Path(trainer.default_root_dir) / FILE_NAME
        if trainer.is_global_zero and file.is_file():  # a run that goes on
            samples = re.split(r"^(?=--- step \d+$)", file.read_text(encoding="utf-8"), flags=re.M)
            kept = [s for s in samples if s and trainer.global_step > 0 and int(s.split()[2]) <= trainer.global_step]
            replace_text(file, "".join(kept))  # a run that is killed here has the old samples or the kept ones

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer, Trainer) and isinstance(pl_module, PretrainingModule)
        if not trainer.is_global_zero:
            return
        tokenizer: Tokenizer = pl_module.data.tokenizer
        ids = tokenizer.encode(self.prompt)
        with trainer.precision_plugin.forward_context():
            [[continuation]] = self.decoding.generate(
                pl_module.model,
                [ids],
                max_new_tokens=self.max_new_tokens,
                eos_id=tokenizer.end_of_text,
                seeds=[self.seed],
                unused=tokenizer.without_token(pl_module.model.vocab_size),
            )
        self.text = tokenizer.decode_document(ids + continuation.ids)
        with open_to_append(Path(trainer.default_root_dir) / FILE_NAME) as file:
            file.write(f"--- step {trainer.global_step}\n{self.text}\n")
        trainer.log_text("sample", self.text)
