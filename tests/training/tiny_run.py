"""The smallest run that trains, and what it left behind."""

from pathlib import Path

import torch

from firstlight.runs.run_folder import RunFolder
from firstlight.sources import find_checkpoint, load_checkpoint

TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "scheduler=constant", "trainer.max_steps=24",
    "trainer.eval_every_n_steps=8", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "callbacks.sample_generation.max_new_tokens=4", "callbacks.throughput.peak_flops=1e9", "~callbacks.plots",
)  # fmt: skip
MEASURED = ("tokens_per_second", "mfu")


def rows_of(folder: str) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv, without what a clock decides."""
    return [
        {key: value for key, value in row.items() if key not in MEASURED}
        for row in RunFolder(Path(folder)).rows
    ]


def weights_of(folder: str, *, best: bool = False) -> dict[str, torch.Tensor]:
    return load_checkpoint(find_checkpoint(folder, best=best)).state_dict


def same_weights(one: str, other: str, *, best: bool = False) -> bool:
    twins = weights_of(other, best=best)
    return all(
        torch.equal(tensor, twins[key]) for key, tensor in weights_of(one, best=best).items()
    )
