"""A run folder from somebody else may hold links: what is written in it stays in it."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from doors import RESUME

from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.folder_io import clear_unfinished, discard
from firstlight.cli import main
from firstlight.errors import ConfigError
from firstlight.runs.writer import only_writer
from firstlight.training.process import start_process
from firstlight.training.watching import Failures

GO_ON = ["train", "resume=run", *RESUME]
THESIS = b"thesis"


@pytest.fixture
def run(trained):
    """A copy of a good run."""
    return Path(shutil.copytree(trained, "run"))


@pytest.fixture
def precious():
    """A file outside of the run."""
    file = Path("precious")
    file.write_bytes(THESIS)
    return file


TEMPORARY = [
    "samples.tmp",
    ".samples.txt.tmp",
    ".metrics.csv.tmp",
    ".model.safetensors.tmp",
    ".hydra/.config.yaml.tmp",
]
IN_PLACE = [
    "metrics.csv",
    "samples.txt",
    ".lock",
    "errors.log",
    "model.safetensors",
    ".hydra/overrides.yaml",
    "loss.png",
]
OTHERS = [
    "events.out.tfevents.9.x",
    "wandb",
    ".wandb_run",
    ".mlflow_run",
    "checkpoints/.step_00000004.tmp",
    "a/b/c",
]


@pytest.mark.parametrize("name", [*TEMPORARY, *IN_PLACE, *OTHERS, "checkpoints"])
def test_a_run_with_a_link_out_of_it_is_not_resumed(name, run, precious):
    file = run / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    file.symlink_to(precious.absolute())
    with pytest.raises(ConfigError, match="a link that leads out"), only_writer(run):
        pass
    assert precious.read_bytes() == THESIS


@pytest.mark.parametrize("resume", [["resume=run"], ["resume=auto", "output_dir=run"]], ids=str)
def test_it_is_one_line_at_the_door(resume, run, precious, refusal):
    (run / "samples.tmp").symlink_to("../precious")
    assert "run/samples.tmp: a link that leads out of run" in refusal(["train", *resume, *RESUME])
    assert precious.read_bytes() == THESIS


def test_links_within_a_run_and_those_that_wandb_makes_are_no_reason_to_refuse_it(run, precious):
    logs = run / "wandb" / "offline-run-20261127_074739-e4d9b550" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(precious.absolute())
    (run / "wandb" / "latest-run").symlink_to(logs.parent.name)
    with only_writer(run):
        pass
    (run / "wandb" / "debug.log").symlink_to(precious.absolute())
    with pytest.raises(ConfigError, match=r"debug\.log: a link"), only_writer(run):
        pass


def test_files_with_another_name_outside_keep_what_they_have_there(run, capfd):
    Path("kept").mkdir()
    before = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        other = Path("kept", str(file.relative_to(run)).replace("/", "_"))
        other.hardlink_to(file)
        before[other] = other.read_bytes()
    for name in (*TEMPORARY, "errors.log", "loss.png"):
        other = Path("kept", f"new_{name.replace('/', '_')}")
        other.write_bytes(THESIS)
        (run / name).unlink(missing_ok=True)
        (run / name).hardlink_to(other)
        before[other] = THESIS
    assert main(GO_ON) == 0, capfd.readouterr().err
    assert {file: file.read_bytes() for file in before} == before


def test_tracebacks_are_not_added_to_what_a_link_leads_to(precious, capfd):
    Path("errors.log").symlink_to(precious)
    failures = Failures(Path())
    failures.attempt("a logger", lambda: 1 / 0)
    assert precious.read_bytes() == THESIS
    assert "a logger failed" in capfd.readouterr().err


def _print() -> int:
    print("printed")
    return 0


@pytest.mark.long
def test_what_a_process_prints_is_not_added_to_what_a_link_leads_to(precious):
    Path("log").symlink_to(precious)
    process = start_process(_print, log=Path("log"), environment=os.environ, new_interpreter=True)
    process.join()
    assert process.exitcode != 0 and precious.read_bytes() == THESIS


def test_what_is_left_of_a_checkpoint_is_removed_and_not_what_it_links_to(tmp_path):
    checkpoints, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    for folder in (checkpoints, elsewhere, checkpoints / ".step_00000001.tmp"):
        folder.mkdir()
    (elsewhere / "thesis").write_bytes(THESIS)
    (checkpoints / ".step_00000002.tmp").symlink_to(elsewhere)
    (checkpoints / ".step_00000003.old").write_bytes(b"x")
    clear_unfinished(checkpoints)
    assert list(checkpoints.iterdir()) == []
    assert (elsewhere / "thesis").read_bytes() == THESIS


def test_a_checkpoint_is_removed_although_a_link_is_in_its_way(run, precious):
    *_, last = checkpoints_of(run)
    last.with_name(f".{last.name}.old.tmp").symlink_to(precious.absolute())
    discard(last)
    assert checkpoints_of(run) == [] and precious.read_bytes() == THESIS
    assert [path for path in last.parent.iterdir() if path.name.startswith(".")] == []


def test_what_replaces_a_file_is_never_written_through_a_link(run, precious, tmp_path):
    from firstlight.files import replacing_by_path

    (tmp_path / ".file.tmp").symlink_to(precious.absolute())
    with replacing_by_path(tmp_path / "file") as path:
        path.write_bytes(b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and precious.read_bytes() == THESIS


def test_nothing_else_in_this_program_opens_a_file_for_writing():
    """So the attacks above are attacks on all of it. What is made in a folder that is new has no
    links in it.
    """
    import re

    source = Path(sys.modules["firstlight"].__file__).parent
    writes = "|".join(
        (
            r"\.write_(text|bytes)\(",
            r"\bopen\((?!os\.devnull)[^)]*\"[awx]b?\"",
            "O_CREAT",
            r"copyfile\(",
            r"savefig\([^,)]*/",
        )
    )
    found = [
        f"{file.relative_to(source)}: {line.strip()}"
        for file in sorted(source.rglob("*.py"))
        if file.name != "files.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(writes, line)
    ]
    assert found == [
        # Both in a temporary folder; the first follows no link.
        "launchers.py: flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC",
        'sweep/storage.py: shutil.copyfile(f"{file}{ending}", f"{copy}{ending}")',
    ]
