"""`firstlight new`: a package that works at once, or one line that says why there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from firstlight.cli import main
from firstlight.new import command

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_writes_a_package_of_that_name(capsys):
    assert main(["new", "my_own2"]) == 0
    assert "experiment=my_own2" in capsys.readouterr().out
    names = {str(file.relative_to("my_own2")) for file in Path("my_own2").rglob("*.*")}
    assert {"pyproject.toml", ".gitignore", "src/my_own2/conf/model/my_own2.yaml"} <= names
    for file in Path("my_own2").rglob("*"):
        assert "mylab" not in str(file)
        assert file.is_dir() or "mylab" not in file.read_text()
    assert [path.name for path in Path().iterdir()] == ["my_own2"]


def test_its_folder_may_be_called_otherwise():
    assert main(["new", "ownlab", "folder=a b/c=d"]) == 0
    assert Path("a b/c=d/src/ownlab/model.py").is_file()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("my-lab", "my_lab is one"),
        ("class", "keyword"),
        ("9lab", "not the name"),
        ("lab_", "lab is one"),
        ("müll", "not the name"),
        ("a" * 64, "up to 63"),
        ("../lab", "lab is one"),
        ("", "name"),
        ("torch", "is installed"),
        ("json", "is installed"),
        ("nano", "model=nano is taken"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_one_line(name, problem, capsys):
    assert main(["new", name]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("firstlight: name") and problem in lines[0]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_exists_is_left_as_it_is(kind, capsys):
    place = Path("ownlab")
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.touch()
    else:
        place.symlink_to("nowhere")
    before = place.lstat().st_ino
    assert main(["new", "ownlab"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert place.lstat().st_ino == before and [path.name for path in Path().iterdir()] == ["ownlab"]


def test_nothing_is_left_if_it_cannot_be_written(monkeypatch, capsys):
    written = []

    def full(file, text):
        written.append(file)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        file.write_text(text)

    monkeypatch.setattr(command, "replace_text", full)
    assert main(["new", "ownlab"]) == 2
    assert "No space left" in capsys.readouterr().err and list(Path().iterdir()) == []


@pytest.mark.long
def test_the_test_of_the_package_passes_where_it_is_not_installed():
    assert main(["new", "ownlab"]) == 0
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd="ownlab",
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
