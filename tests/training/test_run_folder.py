"""A run folder is made by one process, which the others can name; if it is killed, the folder is
made again.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from at_each_operation import DONE, ends_of

from firstlight import processes
from firstlight.errors import ConfigError
from firstlight.lock import WRITER
from firstlight.runs import writer
from firstlight.runs.plain_yaml import dump_plain_yaml, read_plain_yaml
from firstlight.runs.run_folder import CONFIG, OVERRIDES, RunFolder
from firstlight.runs.writer import new_run_folder, only_writer

RECORDS = {"config": {"seed": 1}, "overrides": ["seed=1"]}


@pytest.fixture(autouse=True)
def without_git(monkeypatch):
    monkeypatch.setattr(writer, "environment", lambda config: {"python": "3"})


def make(*, is_fixed):
    with new_run_folder(Path("run"), **RECORDS, is_fixed=is_fixed) as folder:
        return folder


@pytest.mark.parametrize("is_fixed", [True, False], ids=["resume=auto", "a fresh run"])
@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_what_a_kill_or_a_full_disk_leaves_of_a_run_folder_is_begun_again(how, is_fixed):
    ends = 0
    for end in ends_of(lambda: make(is_fixed=True), "run", how):
        ends += 1
        is_run = Path("run", CONFIG).is_file()
        assert is_run or end != DONE
        if is_run:  # killed when nothing was left to do
            assert RunFolder(Path("run")).config == RECORDS["config"]
            assert RunFolder(Path("run")).overrides == RECORDS["overrides"]
            with only_writer(Path("run")):
                pass
            for file in sorted(Path("run").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
        else:
            assert make(is_fixed=is_fixed) == Path("run")
            assert RunFolder(Path("run")).config == RECORDS["config"]
            for record in (CONFIG, OVERRIDES, Path("environment.json"), Path(".lock")):
                Path("run", record).unlink()
        assert not Path("run_2").exists()
    assert ends > 8


@pytest.mark.parametrize(
    "name", ["notes.txt", ".hydra/notes.txt", "checkpoints/step_00000001/x", ".hydra"]
)
def test_a_folder_with_anything_else_in_it_is_left_alone(name):
    file = Path("run", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    before = sorted(Path("run").rglob("*"))
    with pytest.raises(ConfigError):
        make(is_fixed=True)
    assert make(is_fixed=False) == Path("run_2")
    assert sorted(Path("run").rglob("*")) == before


HOLD = """
import sys
from pathlib import Path
from firstlight.runs import writer
writer.environment = dict
with writer.new_run_folder(Path("run"), config={}, overrides=[], is_fixed=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_of_two_writers_is_told_who_the_first_is_and_makes_no_other_folder():
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        told = (
            rf"run: process {first.pid} on {socket.gethostname()} is writing this run; wait for its"
            r" end, or stop it"
        )
        with pytest.raises(ConfigError, match=told), only_writer(Path("run")):
            pass
        Path("run", CONFIG).unlink()  # as if it were still being made
        with pytest.raises(ConfigError, match=told):
            make(is_fixed=True)
        assert not Path("run_2").exists()
        assert make(is_fixed=False) == Path("run_2")
        first.kill()
        first.wait()
    assert make(is_fixed=True) == Path("run")


def test_a_process_that_died_is_not_named_as_the_writer(monkeypatch):
    monkeypatch.setattr("firstlight.lock.PATIENCE", 0.1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with new_run_folder(Path("run"), **RECORDS):
        told = {"host": socket.gethostname(), "pid": dead.pid, "started": "1"}
        Path("run", WRITER).write_text(json.dumps(told))
        with (
            pytest.raises(ConfigError, match="run: another process is writing this run"),
            only_writer(Path("run")),
        ):
            pass
    assert not Path("run", WRITER).exists()


def test_a_run_folder_that_was_begun_and_ended_meanwhile_is_not_begun_again():
    make(is_fixed=True)
    with pytest.raises(
        ConfigError, match="another process began a run there; give the command again"
    ):
        make(is_fixed=True)


@pytest.mark.parametrize(
    "text", ["a\x85b", "\u2028", "a\r\nb", "\x85\x85", "\ufeffx", " \n x\x85 ", "1e3", "a: b #c"]
)
def test_what_is_kept_of_a_command_is_read_as_it_was(text):
    Path("x.yaml").write_text(dump_plain_yaml([text, {text: text}]), encoding="utf-8", newline="")
    assert read_plain_yaml(Path("x.yaml")) == [text, {text: text}]


def test_the_variable_of_the_run_folder_is_gone_after_the_run():
    make(is_fixed=True)
    assert processes.RUN_FOLDER not in os.environ
