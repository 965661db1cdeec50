"""A process of its own is watched, killed where asked, and what it prints is kept.

In new interpreters: the server that `firstlight verify` forks from is started once, with what the
first call imports.
"""

import time

import pytest
from rows import write_rows

from firstlight.verify.process import KillPoint, run_process

FOREVER = 600.0


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_TEST", "here")


def test_the_result_is_the_exit_code_and_the_output_is_kept(tmp_path):
    folder = tmp_path / "run"
    life = run_process(
        write_rows, str(folder), 2, folder=folder, log=tmp_path / "log", new_interpreter=True
    )
    assert life.exit_code == 3
    assert sorted(life.output.splitlines()) == ["hello from here", "trouble"]
    assert {kind for _, kind in life.changes} == {"row"}


def test_it_is_killed_after_so_many_seconds(tmp_path):
    life = run_process(
        time.sleep,
        FOREVER,
        folder=tmp_path,
        log=tmp_path / "log",
        kill=KillPoint(0.2),
        new_interpreter=True,
    )
    assert life.exit_code is None and 0.2 <= life.seconds < 5


def test_it_is_killed_after_so_many_changes_of_a_file(tmp_path):
    folder = tmp_path / "run"
    point = KillPoint(0.0, "row", 4)
    life = run_process(
        write_rows,
        str(folder),
        500,
        folder=folder,
        log=tmp_path / "log",
        kill=point,
        new_interpreter=True,
    )
    assert life.exit_code is None
    assert (
        3 <= len((folder / "metrics.csv").read_text().splitlines()) < 100
    )  # that the file was made is a change, too


def test_it_is_killed_when_it_hangs(tmp_path):
    life = run_process(
        time.sleep, FOREVER, folder=tmp_path, log=tmp_path / "log", limit=0.2, new_interpreter=True
    )
    assert life.exit_code is None
