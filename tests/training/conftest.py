"""Runs of a second, in a folder of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from firstlight.cli import main
from firstlight.training.loggers.csv import read_rows
from firstlight.weights.checkpoint import load_plain

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
TINY = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "scheduler=constant", "trainer.max_steps=24",
    "trainer.eval_every_n_steps=8", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "callbacks.sample_generation.max_new_tokens=4", "callbacks.throughput.peak_flops=1e9", "~callbacks.plots",
)  # fmt: skip
MEASURED = ("tokens_per_second", "mfu")


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "stop_at")
    Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture
def train() -> Callable[..., int]:
    """Train the tiny model into a folder; the exit code."""
    return lambda folder, *overrides: main(["train", *TINY, f"output_dir={folder}", *overrides])


def rows_of(folder: str) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv, without what a clock decides."""
    return [
        {key: value for key, value in row.items() if key not in MEASURED}
        for row in read_rows(Path(folder) / "metrics.csv")
    ]


def weights_of(folder: str, name: str = "last") -> dict[str, torch.Tensor]:
    return load_plain(Path(folder) / "checkpoints" / f"{name}.ckpt")["state_dict"]


def same_weights(one: str, other: str, name: str = "last") -> bool:
    twins = weights_of(other, name)
    return all(torch.equal(tensor, twins[key]) for key, tensor in weights_of(one, name).items())
