"""Runs of a second, in a folder of their own."""

import shutil
from collections.abc import Callable
from contextlib import chdir
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


@pytest.fixture(scope="session")
def made() -> dict[tuple[str, ...], Path]:
    """The folders of the runs that `trained` has made, by their overrides."""
    return {}


@pytest.fixture
def trained(train, made, tmp_path_factory) -> Callable[..., None]:
    """Put a run of the tiny model into a folder: it is trained once for all tests of this process,
    then copied.

    For what a test only compares with, or goes on from; nothing may be patched yet.
    """

    def put(folder: str, *overrides: str) -> None:
        if overrides not in made:
            place = tmp_path_factory.mktemp("made")
            (place / "text.txt").write_text(TEXT, encoding="utf-8")
            with chdir(place):
                assert train("run", *overrides) == 0
            made[overrides] = place / "run"
        shutil.copytree(made[overrides], folder)

    return put
