"""What comes from the environment is used, and is found nowhere afterwards: no file of the run, no
message.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import notify
import pytest
import yaml
from tiny_run import TINY, rows_of

from firstlight.cli import main
from firstlight.compose.resumed import resumed_config
from firstlight.processes import FIRST_PROCESS, RUN_FOLDER

SECRET = "open-sesame-7f3a9c"
TOKEN = [
    "+callbacks.notify._target_=notify.Notify",
    "+callbacks.notify.token=${oc.env:FIRSTLIGHT_TEST_SECRET}",
]
PATH = "data.path=${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt"
LIST = "data.path=[${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt]"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    """A secret in the environment, which is also the name of the folder with the text."""
    monkeypatch.setenv("FIRSTLIGHT_TEST_SECRET", SECRET)
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "stop_at,notify")
    Path(SECRET).mkdir()
    Path("text.txt").rename(Path(SECRET, "text.txt"))
    notify.USED.clear()


@pytest.fixture
def shown(capfd):
    """What has been printed since the last call."""
    return lambda: "".join(capfd.readouterr())


def places(folder):
    """Where the secret is found in a run folder: names and contents of files."""
    content = SECRET.encode()
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert len(files) > 5
    return [str(f) for f in files if content in f.read_bytes() or SECRET in f.name]


def stored(folder, file="config.yaml"):
    return yaml.safe_load(Path(folder, ".hydra", file).read_text())


def test_a_run_uses_its_secrets_and_keeps_none(train, shown):
    assert train("run", LIST, *TOKEN, "trainer.max_steps=2") == 0
    assert notify.USED == [SECRET]
    assert places("run") == []
    assert SECRET not in shown()
    assert stored("run")["callbacks"]["notify"]["token"] == "${oc.env:FIRSTLIGHT_TEST_SECRET}"
    assert stored("run")["data"]["path"] == ["${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt"]
    assert TOKEN[1] in stored("run", "overrides.yaml")


def test_values_that_were_derived_from_a_secret_are_not_kept_either(train, shown, tmp_path):
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\nname: ${oc.env:FIRSTLIGHT_NO_SUCH,anonymous}\ncallbacks:\n  notify:"
        " {_target_: notify.Notify, token: '${data.path}?key=${oc.env:FIRSTLIGHT_TEST_SECRET}'}\n"
    )
    assert (
        train(
            "run",
            "experiment=mine",
            PATH,
            "trainer.max_steps=2",
            "--config-dir",
            str(tmp_path / "conf"),
        )
        == 0
    )
    assert notify.USED.pop() == f"{SECRET}/text.txt?key={SECRET}"
    assert places("run") == []
    assert SECRET not in shown()
    assert (
        stored("run")["callbacks"]["notify"]["token"].count("${oc.env:FIRSTLIGHT_TEST_SECRET}") == 2
    )
    assert stored("run")["name"] == "${oc.env:FIRSTLIGHT_NO_SUCH,anonymous}"


def test_a_continued_run_asks_for_what_it_did_not_keep(train, shown):
    with pytest.raises(
        SystemExit
    ):  # a defect: the traceback is printed here, since it could show the secret
        sys.exit(
            train(
                "run",
                PATH,
                *TOKEN,
                "+callbacks.stop._target_=stop_at.FailAt",
                "+callbacks.stop.step=13",
            )
        )
    assert "LookupError" in shown()
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}

    assert main(["train", "resume=run", "~callbacks.stop"]) == 2
    lines = shown().splitlines()
    assert lines == [
        (
            "firstlight: data.path: came from the environment"
            " (${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt) when the run began; give it again:"
            f" data.path='{PATH.partition('=')[2]}'"
        ),
        (
            "firstlight: callbacks.notify.token: came from the environment"
            " (${oc.env:FIRSTLIGHT_TEST_SECRET}) when the run began; give it again:"
            " callbacks.notify.token='${oc.env:FIRSTLIGHT_TEST_SECRET}'"
        ),
    ]
    assert before == {file: file.read_bytes() for file in before}

    assert main(["train", "resume=run", "~callbacks.stop", PATH, TOKEN[1].lstrip("+")]) == 0
    assert [int(row["step"]) for row in rows_of("run")] == list(range(25))
    assert notify.USED == [SECRET, SECRET]
    assert places("run") == []
    assert SECRET not in shown()
    assert stored("run")["data"]["path"] == "${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt"


def test_the_data_of_a_continued_run_are_still_compared(train, shown):
    assert train("run", PATH, "trainer.max_steps=2") == 0
    Path("other.txt").write_text(
        "Another text altogether, of much the same length as the first. " * 15
    )
    assert main(["train", "resume=run", "trainer.max_steps=4", "data.path=other.txt"]) == 2
    assert "this is not the text that" in shown()


@pytest.mark.long
def test_where_a_run_was_kept_is_not_asked_for_again(train):
    assert (
        train(
            "run", "data.path=" + SECRET + "/text.txt", "trainer.max_steps=2", "name=${oc.env:HOME}"
        )
        == 0
    )
    assert main(["train", "resume=run", "trainer.max_steps=3"]) == 0
    assert stored("run")["name"] == "${oc.env:HOME}"


@pytest.mark.long
def test_a_checkpoint_can_be_measured_on_a_text_that_is_given_again(train, shown):
    assert train("run", PATH, "trainer.max_steps=2") == 0
    assert main(["evaluate", "format=json", "checkpoint=run", "accelerator=cpu"]) == 2
    printed = shown()
    assert (
        "data.path: came from the environment (${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt)"
        in printed
    )
    assert f"data=text data.path='{PATH.partition('=')[2]}'" in printed
    assert (
        main(["evaluate", "format=json", "checkpoint=run", "accelerator=cpu", "data=text", PATH])
        == 0
    )
    assert (
        main(["generate", "checkpoint=run", "accelerator=cpu", "prompt=The", "max_new_tokens=1"])
        == 0
    )
    assert main(["export", "checkpoint=run", "format=safetensors", "out=model.safetensors"]) == 0
    assert SECRET.encode() not in Path("model.safetensors").read_bytes()
    assert SECRET not in shown()


@pytest.mark.long
def test_weights_to_start_from_may_be_where_the_environment_says(train, shown):
    Path("text.txt").write_text(Path(SECRET, "text.txt").read_text())
    assert train("run", "trainer.max_steps=2") == 0
    Path("run").rename(Path(SECRET, "run"))
    assert (
        train("next", "trainer.max_steps=2", "init_from=${oc.env:FIRSTLIGHT_TEST_SECRET}/run") == 0
    )
    assert places("next") == []
    assert SECRET not in shown()
    assert (
        main(["train", "resume=${oc.env:FIRSTLIGHT_TEST_SECRET}/run", "trainer.max_steps=3"]) == 0
    )
    assert places(Path(SECRET, "run")) == []


@pytest.mark.long
def test_a_sweep_keeps_no_secrets(train, shown):
    assert (
        main(
            [
                "train",
                "-m",
                *TINY,
                PATH,
                *TOKEN,
                "trainer.max_steps=2",
                "seed=1,2",
                "hydra.sweep.dir=sweep",
            ]
        )
        == 2
    )
    sweep = ["train", "-m", *TINY, f"{PATH},{SECRET}/text.txt", "trainer.max_steps=2", "name=sweep"]
    shown()
    assert main(sweep) == 0
    [folder] = Path("outputs/sweep").iterdir()
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    assert places(runs[0]) == [] and SECRET not in runs[0].name
    assert len(places(runs[1])) > 0  # that one was given the text itself


MISTAKES = {
    "a wrong type": [PATH, "data.batch_size=${oc.env:FIRSTLIGHT_TEST_SECRET}"],
    "a choice": [PATH, "trainer.precision=${oc.env:FIRSTLIGHT_TEST_SECRET}"],
    "a target": [PATH, "optimizer._target_=${oc.env:FIRSTLIGHT_TEST_SECRET}"],
    "a device": [PATH, "trainer.accelerator=${oc.env:FIRSTLIGHT_TEST_SECRET}"],
    "a missing file": ["data.path=${oc.env:FIRSTLIGHT_TEST_SECRET}/nowhere.txt"],
    "a list of files": ["data.path=${oc.decode:'[${oc.env:FIRSTLIGHT_TEST_SECRET}/a.txt]'}"],
    "a list that is none": ["data.path=${oc.decode:'[${oc.env:FIRSTLIGHT_TEST_SECRET}'}"],
    "a checkpoint": [PATH, "init_from=${oc.env:FIRSTLIGHT_TEST_SECRET}"],
    "a run": ["resume=${oc.env:FIRSTLIGHT_TEST_SECRET}"],
    "a constructor": [PATH, *TOKEN, "+callbacks.notify.fail=true"],
    "a folder": [PATH, "output_dir=${oc.env:FIRSTLIGHT_TEST_SECRET}/text.txt"],
    "a name that is none": [PATH, "name=${${oc.env:FIRSTLIGHT_TEST_SECRET}}"],
}


@pytest.mark.parametrize("overrides", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.one_in(3)
def test_no_message_shows_a_secret(train, overrides, shown):
    arguments = (
        overrides if overrides[0].startswith("resume") else [*TINY, "output_dir=run", *overrides]
    )
    assert main(["train", *arguments]) == 2
    printed = shown()
    assert SECRET not in printed
    assert len(printed.splitlines()) == 1
    assert not Path("run").exists()


def test_a_number_that_is_out_of_range_is_named_by_its_key(train, shown, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_TEST_NUMBER", "-31415")
    assert (
        train("run", PATH, 'data.batch_size="${oc.decode:${oc.env:FIRSTLIGHT_TEST_NUMBER}}"') == 2
    )
    printed = shown()
    assert (
        "data.batch_size: expected int > 0 and <= " in printed
        and "${oc.env:FIRSTLIGHT_TEST_NUMBER}" in printed
    )
    assert "31415" not in printed


def test_numbers_are_given_themselves_since_the_run_shows_them(train, shown):
    """The seed of an array job: a shell writes it as seed=$SLURM_PROCID."""
    assert (
        train(
            "run",
            PATH,
            'seed="${oc.decode:${oc.env:FIRSTLIGHT_TEST_SEED,77}}"',
            "trainer.max_steps=2",
        )
        == 2
    )
    assert shown().startswith("firstlight: seed: give the value itself")
    assert not Path("run").exists()


def test_a_traceback_of_a_defect_shows_no_secret(train, shown):
    assert (
        train("run", PATH, "+callbacks.stop._target_=stop_at.FailAt", "+callbacks.stop.step=1") == 1
    )
    printed = shown()
    assert "Traceback" in printed and "LookupError" in printed
    assert SECRET not in printed


def test_the_environment_itself_is_never_written():
    """`environment.json` is versions: whoever adds to it finds this test."""
    from firstlight.runs.environment import environment

    kept = environment({})
    assert SECRET not in str(kept)
    assert set(kept) >= {"python", "platform", "torch", "git_commit"} and len(kept) < 18
    source = Path(__file__).parents[2] / "src" / "firstlight"
    whole = re.compile(r"os\.environ(?!\.get\(|\[|\.pop\(|\.setdefault\()")
    uses = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*.py")
        for line in file.read_text().splitlines()
        if whole.search(line) and " in os.environ" not in line
    }
    # They hand it to a process that is started, put it back as it was, or notice that it changed.
    handing = {"processes.py", "training/process.py"}
    assert uses <= handing | {"api/surroundings.py", "api/language_model.py"}


def test_help_and_cfg_show_the_text_of_an_interpolation():
    command = [sys.executable, "-m", "firstlight", "train", *TINY, PATH]
    for option in (["--help"], ["--cfg", "job"]):
        done = subprocess.run(
            [*command, *option], capture_output=True, text=True, check=True, timeout=120
        )
        assert SECRET not in done.stdout + done.stderr
        assert "${oc.env:FIRSTLIGHT_TEST_SECRET}" in done.stdout


def test_a_further_process_takes_from_the_command_line_what_was_not_kept(train, monkeypatch):
    """The rest it finds in the config, where the first process has put it."""
    assert train("run", PATH, "trainer.max_steps=2") == 0
    for name, value in {
        FIRST_PROCESS: str(os.getppid()),
        RUN_FOLDER: "run",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    config = resumed_config(["resume=run", PATH, "trainer.max_steps=9"])
    assert config is not None
    assert (config.data.path, config.trainer.max_steps) == (f"{SECRET}/text.txt", 2)
