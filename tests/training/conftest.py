"""Runs of a second, in a folder of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import TINY

from firstlight.cli import main

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12


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
