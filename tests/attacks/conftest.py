"""What the attacks share: a folder of their own, a run to spoil, and what has to come of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from doors import MARKER, TRAIN

from firstlight.cli import main

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12

OTHER_DOORS = ("evaluate", "export", "info")
"""For which generate, train and resume stand: an attack is tried at them in the long tests."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [
        item
        for item in items
        if isinstance(item, pytest.Function) and Path(__file__).parent in item.path.parents
    ]
    for item in own:
        if hasattr(item, "callspec") and item.callspec.params.get("door") in OTHER_DOORS:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run folder of two steps; not to be changed."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    try:
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        assert main(["train", *TRAIN, "output_dir=run"]) == 0
    finally:
        os.chdir(before)
    return folder / "run"


@pytest.fixture
def refusal(capfd) -> Callable[[list[str]], str]:
    """Run a command line that must be refused: exit code 2, one line a mistake, nothing run,
    nothing written.
    """

    def run(arguments: list[str], *, several: bool = False) -> str:
        before = sorted(Path().rglob("*"))
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        assert not MARKER.exists(), "code was run"
        lines = err.splitlines()
        assert (code, out) == (2, "") and lines and (several or len(lines) == 1), out + err
        assert all(
            ln.startswith("firstlight: ") and ln.isprintable() and len(ln) < 600 for ln in lines
        ), err
        assert sorted(Path().rglob("*")) == before
        return err

    return run
