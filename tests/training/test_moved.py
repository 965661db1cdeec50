"""A run is resumed, evaluated and compared from another working folder, and when its text has
moved.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from stop_at import Crash
from tiny_run import TINY, rows_of, same_weights

from firstlight.cli import main
from firstlight.sweep.planning import planned

STOP = ("+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=10")
OTHER = "Another text altogether, of much the same length as the first. " * 15
EVALUATION = ("evaluate", "format=json", "accelerator=cpu")


@pytest.fixture
def begun(train, tmp_path, monkeypatch) -> Path:
    """The folder of a run that was stopped, begun with a relative path; the working folder is
    another one now.
    """
    with pytest.raises(Crash):
        train("run", *STOP)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


@pytest.fixture
def finished(train, tmp_path, monkeypatch) -> Path:
    """The folder of a run of 8 steps that is finished; the working folder is another one now."""
    assert train("run", "trainer.max_steps=8") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


def stored_path(run: Path) -> str:
    return yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["data"]["path"]


def test_a_run_is_resumed_from_another_working_folder_and_keeps_its_paths(
    train, begun, monkeypatch
):
    assert main(["train", f"resume={begun}", "~callbacks.stop"]) == 0
    assert stored_path(begun) == "text.txt"
    monkeypatch.chdir(begun.parent)
    assert train("whole") == 0
    assert rows_of("whole") == rows_of("run")
    assert same_weights("whole", "run")


def test_the_new_place_of_a_text_that_has_moved_can_be_given(begun, capsys):
    Path("my texts (1)").mkdir()
    shutil.move(begun.parent / "text.txt", "my texts (1)/a=b.txt")
    assert main(["train", f"resume={begun}", "~callbacks.stop"]) == 2
    assert (
        "no such file; if the text has moved, say where it is: data.path=..."
        in capsys.readouterr().err
    )
    assert (
        main(["train", f"resume={begun}", "~callbacks.stop", "data.path=my texts (1)/a=b.txt"]) == 0
    )
    assert stored_path(begun) == str(Path("my texts (1)/a=b.txt").absolute())


def test_another_text_is_refused_in_one_line(begun, capsys):
    Path("other.txt").write_text(OTHER)
    capsys.readouterr()
    assert main(["train", f"resume={begun}", "~callbacks.stop", "data.path=other.txt"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "this is not the text that" in line
    assert stored_path(begun) == "text.txt"


def test_a_run_of_an_earlier_version_is_resumed_from_where_it_was_begun(begun, monkeypatch, capsys):
    environment = json.loads((begun / "environment.json").read_text())
    del environment["working_folder"]
    (begun / "environment.json").write_text(json.dumps(environment))
    assert main(["train", f"resume={begun}", "~callbacks.stop"]) == 2
    assert "no such file" in capsys.readouterr().err
    monkeypatch.chdir(begun.parent)
    assert main(["train", "resume=run", "~callbacks.stop"]) == 0


def test_weights_to_start_from_are_found_again_before_the_first_checkpoint(
    train, tmp_path, monkeypatch
):
    assert train("first", "trainer.max_steps=2") == 0
    with pytest.raises(Crash):
        train(
            "second",
            "init_from=first",
            "+callbacks.stop._target_=stop_at.StopAt",
            "+callbacks.stop.batch=1",
        )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (
        main(["train", f"resume={tmp_path / 'second'}", "~callbacks.stop", "trainer.max_steps=3"])
        == 0
    )


def test_a_finished_run_can_be_told_where_its_text_is(finished, capsys):
    assert main(["train", f"resume={finished}", "data.num_workers=0"]) == 2
    shutil.move(finished.parent / "text.txt", "moved.txt")
    assert main(["train", f"resume={finished}", "data.path=moved.txt"]) == 0
    assert "is finished" in capsys.readouterr().err
    assert stored_path(finished) == str(Path("moved.txt").absolute())
    assert main([*EVALUATION, f"checkpoint={finished}"]) == 0


def test_evaluate_and_compare_find_the_text_of_a_run_from_another_working_folder(finished, capsys):
    capsys.readouterr()
    assert main([*EVALUATION, f"checkpoint={finished}"]) == 0
    found = json.loads(capsys.readouterr().out)
    shutil.move(finished.parent / "text.txt", "moved.txt")
    assert main([*EVALUATION, f"checkpoint={finished}"]) == 2
    assert "if the text has moved, say where it is: data.path=..." in capsys.readouterr().err
    assert main([*EVALUATION, f"checkpoint={finished}", "data.path=moved.txt"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main([*EVALUATION, f"checkpoint={finished}", "data.path=moved.txt", "split=all"]) == 0
    twin = finished.with_name("twin")
    shutil.copytree(finished, twin)
    compare = ["compare", str(finished), str(twin), "accelerator=cpu", "out=null"]
    assert main(compare) == 2
    assert main([*compare, "data.path=moved.txt"]) == 0
    Path("other.txt").write_text(OTHER)
    capsys.readouterr()
    for command in ([*EVALUATION, f"checkpoint={finished}"], compare):
        assert main([*command, "data.path=other.txt"]) == 2
        assert "this is not the text that" in capsys.readouterr().err


OWN_DATA = """
from typing import Any

from firstlight.data.text import TextData

class Told(TextData):
    def __init__(self, *, file: str, dialect: str, **kwargs: Any):
        if dialect != "old":
            raise ValueError(f"dialect ({dialect}): there is only 'old'")
        super().__init__(path=file, **kwargs)
"""


def test_only_keys_that_are_texts_are_taken_for_paths_of_the_folder_where_a_run_was_begun(
    train, tmp_path, monkeypatch
):
    Path("own_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "own_data,stop_at")
    Path("conf/data").mkdir(parents=True)
    Path("conf/data/told.yaml").write_text(
        "defaults:\n  - base\n  - _self_\n\n_target_: own_data.Told\nfile: ??? # text:"
        " where\ndialect: old # ...\n"
    )
    Path("old").mkdir()  # of the same name as the dialect
    own = ["--config-dir", str(Path("conf").absolute())]
    words = [word for word in TINY if not word.startswith("data")]
    assert (
        main(
            [
                "train",
                *words,
                "data=told",
                "data.file=text.txt",
                "output_dir=run",
                "trainer.max_steps=2",
                *own,
            ]
        )
        == 0
    )
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["train", "resume=../run", "trainer.max_steps=3", *own]) == 0
    assert main([*EVALUATION, "checkpoint=../run", *own]) == 0


def test_a_file_of_the_same_name_in_the_working_folder_is_not_the_text_of_the_run(finished, capsys):
    capsys.readouterr()
    assert main([*EVALUATION, f"checkpoint={finished}"]) == 0
    found = capsys.readouterr().out
    Path("text.txt").write_text(OTHER)
    assert main([*EVALUATION, f"checkpoint={finished}"]) == 0
    assert capsys.readouterr().out == found
    assert main(["train", f"resume={finished}", "trainer.max_steps=9"]) == 0


def test_a_text_that_has_changed_since_is_not_taken_for_the_text_of_the_run(finished, capsys):
    (finished.parent / "text.txt").write_text(OTHER)
    shutil.copytree(finished, twin := finished.with_name("twin"))
    for checkpoint in (finished, finished / "model.safetensors"):
        for split in ("val", "all"):
            capsys.readouterr()
            assert main([*EVALUATION, f"checkpoint={checkpoint}", f"split={split}"]) == 2
            line = capsys.readouterr().err
            assert line.startswith("firstlight: data.path (") and line.count("\n") == 1
            assert "this is not the text that" in line and "data=text data.path=..." in line
    assert main(["compare", str(finished), str(twin), "accelerator=cpu", "out=null"]) == 2
    assert "its text: windows=0" in capsys.readouterr().err
    chosen = ("data=text", f"data.path={finished.parent / 'text.txt'}")
    assert main([*EVALUATION, f"checkpoint={finished}", *chosen]) == 0


def test_a_run_that_has_found_its_text_elsewhere_is_evaluated_there(finished, capsys):
    shutil.move(finished.parent / "text.txt", "moved.txt")
    assert main(["train", f"resume={finished}", "data.path=moved.txt"]) == 0
    (finished.parent / "text.txt").write_text(OTHER)
    assert main([*EVALUATION, f"checkpoint={finished}"]) == 0


def test_a_checkpoint_that_keeps_no_fingerprint_says_so(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    shutil.move("run/model.safetensors", "alone.safetensors")
    assert main([*EVALUATION, "checkpoint=alone.safetensors"]) == 0
    assert (
        "whether this is the text that alone.safetensors was trained on is not known"
        in capsys.readouterr().err
    )


@pytest.mark.long
def test_a_sweep_that_has_moved_is_resumed_and_a_trial_on_a_text_that_has_changed_since_fails(
    train, capsys
):
    crash = (
        "+callbacks.stop._target_=stop_at.StopAt",
        "+callbacks.stop.batch=100,5,6",
        "trainer.max_steps=9",
    )
    assert train("sweep", "-m", "trainer.eval_every_n_steps=4", *crash) == 1
    Path("sweep").rename("moved")
    shutil.rmtree(next(Path("moved").glob("2_*")))
    text = Path("text.txt").read_text()
    Path("text.txt").write_text(OTHER)
    capsys.readouterr()
    assert main(["sweep", "retry", "moved"]) == 1
    told = capsys.readouterr().out
    assert "this is not the text that" in told and "the text has changed since" in told
    Path("text.txt").write_text(text)
    assert main(["sweep", "retry", "moved"]) == 1
    told = capsys.readouterr().out
    assert "Crash" in told and "data.path (" not in told and "output_dir" not in told


def test_a_sweep_is_resumed_from_another_working_folder(tmp_path, monkeypatch, capsys):
    words = [*TINY, "trainer.max_steps=2", "seed=choice(1)", f"output_dir={tmp_path / 'sweep'}"]
    folder = planned(words, None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["sweep", "resume", str(folder)]) == 0
    [environment] = folder.glob("*/environment.json")
    assert json.loads(environment.read_text())["working_folder"] == str(tmp_path)
    assert list(Path.cwd().iterdir()) == []


def test_the_same_command_resumes_its_run_whatever_its_names(train, tmp_path):
    names = ["a=b, (1)", "été #1", "2024"]
    for name in names:
        shutil.copy("text.txt", name)
        words = [
            f"data.path={name}",
            "resume=auto",
            "callbacks.sample_generation.prompt=${x}, null",
            *STOP,
        ]
        with pytest.raises(Crash):
            train(f"run of {name}", *words)
        assert train(f"run of {name}", *words, "~callbacks.stop") == 0
        assert Path(f"run of {name}", "model.safetensors").is_file()
        assert not Path(f"run of {name}_2").exists()


def test_a_tilde_in_output_dir_is_the_home_folder(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert train("~/runs/a", "trainer.max_steps=2") == 0
    assert (tmp_path / "home" / "runs" / "a" / "model.safetensors").is_file()
