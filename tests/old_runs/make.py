"""Makes the run folders kept here, with the code of any commit: python make.py NAME, in a folder
with its text.txt.

Each kind of run is trained to its end, for the rows it must come to, and once more, killed after
step 8.
"""

import contextlib
import shutil
import sys
from pathlib import Path

TINY = (
    "data=text", "data.path=text.txt", "model.context_length=16", "model.emb_dim=8", "model.n_heads=2",
    "model.n_layers=1", "data.batch_size=8", "trainer.max_steps=16", "trainer.eval_every_n_steps=8",
    "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "callbacks.sample_generation.max_new_tokens=4", "callbacks.checkpoint.keep_last=1", "~callbacks.plots",
)  # fmt: skip
KINDS = {
    "gpt": ("tokenizer=bytes", "scheduler=warmup_cosine", "scheduler.warmup_steps=3"),
    "modern": (
        "model=modern_nano", "model.context_length=16", "model.emb_dim=8", "model.n_heads=2", "model.n_layers=1",
        "tokenizer=bpe", "tokenizer.vocab_size=280", "optimizer=muon", "scheduler=warmup_stable_decay",
        "scheduler.warmup_steps=3", "trainer.accumulate_grad_batches=2", "trainer.micro_batch_size=3",
        "data.drop_last=false", "callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=5",
    ),
}  # fmt: skip


def main(name: str) -> None:
    from firstlight.cli import main as firstlight
    from firstlight.training.trainer import Trainer

    real = Trainer.step_complete

    class Killed(BaseException):
        pass

    def step_complete(self: Trainer) -> None:
        real(self)
        if self.global_step == 8:
            raise Killed

    for kind, overrides in KINDS.items():
        folder = Path(f"{name}-{kind}")
        assert firstlight(["train", *TINY, *overrides, "output_dir=whole"]) == 0
        Trainer.step_complete = step_complete
        with contextlib.suppress(Killed):
            firstlight(["train", *TINY, *overrides, f"output_dir={folder}"])
        Trainer.step_complete = real
        shutil.copy("whole/metrics.csv", folder / "whole.csv")
        shutil.rmtree("whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
