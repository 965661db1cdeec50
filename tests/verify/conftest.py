"""A run of a second, and copies of it in which something is changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from firstlight.cli import main

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tiny(text) -> list[str]:
    """Overrides of a run of 7,680 parameters."""
    return [
        "data=text", f"data.path={text}", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
        "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "trainer.accelerator=cpu",
        "callbacks.sample_generation.max_new_tokens=4", "callbacks.throughput.peak_flops=1e9", "~callbacks.plots",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory) -> Path:
    """The folder of a run of 6 steps, evaluated after 3 and 6, with checkpoints of 5 and 6."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    steps = ("max_steps=6", "eval_every_n_steps=3", "log_every_n_steps=1")
    words = [
        *tiny,
        *(f"trainer.{word}" for word in steps),
        "scheduler=constant",
        "callbacks.checkpoint.every_n_steps=1",
    ]
    assert main(["train", *words, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Callable[[], Path]:
    """Makes a copy of the finished run."""
    return lambda: Path(shutil.copytree(finished, tmp_path / "copy"))
