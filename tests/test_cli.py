"""The command line: help, versions, exit codes, run folders and sweeps."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from firstlight import __version__
from firstlight.cli import VERBS, main
from firstlight.conf_files import conf_dir

SENTENCE = "The lamp was lit by the keeper every night, and the ships came home. "
SECONDS = 3.0
"""An answer that needs no torch takes less, Python's start included; about 0.7 on an idle
machine."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in; returns it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def tiny(tmp_path):
    """Overrides of the smallest run there is: two steps, and only checkpoints written."""
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE * 20)
    unneeded = ("learning_rate_monitor", "throughput", "sample_generation", "progress", "plots")
    return [
        "data=text",
        f"data.path={text}",
        "tokenizer=bytes",
        "model.context_length=16",
        "model.emb_dim=16",
        "model.n_heads=2",
        "model.n_layers=1",
        "data.batch_size=2",
        "trainer.max_steps=2",
        "trainer.eval_every_n_steps=1",
        "trainer.accelerator=cpu",
        "scheduler=constant",
        "logger=[csv]",
        "name=tiny",
        *(f"~callbacks.{name}" for name in unneeded),
    ]


def in_process_of_its_own(code):
    """What `code` printed, as a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- help


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["evaluate"],
        ["generate"],
        ["verify"],
        ["bench"],
        ["export"],
        ["info"],
        ["train", "model.emb_dimm=1"],
    ],
    ids=lambda a: " ".join(a),
)
@pytest.mark.one_in(3)
def test_help_and_misspelt_keys_answer_at_once_without_torch(place, arguments):
    words = arguments if len(arguments) == 2 else [*arguments, "--help"]
    code = (
        f"import sys, time; from firstlight.cli import main; print(main({words!r})); print([m for m"
        " in ('torch', 'lightning', 'numpy') if m in sys.modules]); print(time.process_time())"
    )
    *_, code_shown, imported, seconds = in_process_of_its_own(code).splitlines()
    assert (code_shown, imported) == ("2" if words == arguments else "0", "[]")
    assert float(seconds) < SECONDS  # of the processor: other programs may have the machine
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_of_the_program_names_every_verb(capsys, arguments):
    assert main(arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    for verb, what in VERBS.items():
        assert f"{verb} {what}" in out


def explained(capsys, *words):
    """The keys on a page of help, and what it says of each."""
    assert main([*words]) == 0
    found, key = {}, None
    for line in capsys.readouterr().out.splitlines():
        entry = re.match(r"  (\S+?)(\[\.\.\.\])?=(.*)", line)
        if entry is not None:
            key = entry[1]
            # evaluate has a group and a key that are called metrics.
            found[key] = found.get(key, "") + entry[3].partition("  ")[2].strip()
        elif key is not None and line.startswith("   "):
            found[key] += f" {line.strip()}"
        elif not line.startswith(" "):
            key = None
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_a_verb_is_explained(capsys, verb):
    found = explained(capsys, verb, "--help", "all")
    assert len(found) >= 2
    assert [key for key, what in found.items() if not what] == []


def defaults_of(name):
    """The defaults list of a primary config, with those of the files it is based on."""
    for item in yaml.safe_load(Path(conf_dir(), f"{name}.yaml").read_text()).get("defaults", []):
        if isinstance(item, str) and item != "_self_":
            yield from defaults_of(item)
        else:
            yield item


def options():
    """Parameters (verb, override) for every option of every group that the verb has."""
    folder = Path(conf_dir())
    found = []
    for verb in VERBS:
        for item in defaults_of(verb):
            if not isinstance(item, dict) or next(iter(item)).startswith("override"):
                continue
            group, default = next(iter(item.items()))
            for file in sorted((folder / group).glob("*.yaml")):
                value = f"[{file.stem}]" if isinstance(default, list) else file.stem
                if (
                    not file.stem.startswith("base")
                    and default != file.stem
                    and value != "[default,default]"
                ):
                    marks = (
                        [pytest.mark.long]
                        if verb
                        in ("train", "verify", "bench", "plan", "lr-find", "coord-check", "ladder")
                        else []
                    )
                    found.append(pytest.param(verb, f"{group}={value}", marks=marks))
    return found


@pytest.mark.parametrize(("verb", "option"), options())
def test_every_key_of_an_option_is_explained(capsys, place, verb, option):
    found = explained(capsys, verb, "--help", "all", option)
    assert [key for key, what in found.items() if not what] == []
    group, _, choice = option.partition("=")
    chosen = choice.strip("[]")
    assert chosen in ("default", "book") or re.search(rf"\b{chosen}\b", found[group])
    assert list(place.iterdir()) == []


def test_help_shows_the_values_that_would_be_used(capsys):
    assert main(["train", "model=gpt2_small", "optimizer.lr=3e-4", "--help", "all"]) == 0
    out = capsys.readouterr().out
    assert "  model.emb_dim=768 " in out and "  optimizer.lr=0.0003 " in out


def test_help_of_a_mistake_is_the_mistake(capsys):
    assert main(["train", "model=nanoo", "--help"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean 'nano'" in err


# ---- what else answers at once


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_printed(capsys, word):
    assert main([word]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_python_m_firstlight_is_the_same_program():
    command = [sys.executable, "-m", "firstlight"]
    result = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{__version__}\n", "")
    result = subprocess.run(
        [*command, "trian"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "did you mean 'train'" in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_the_composed_config_is_printed_and_nothing_is_written(capsys, place, verb):
    overrides = {
        "train": ["optimizer.lr=3e-4"],
        "verify": ["verify.kills=3"],
        "bench": ["bench.rounds=2"],
        "plan": ["plan.steps=0"],
        "lr-find": ["lr_find.steps=50"],
        "coord-check": ["coord_check.steps=5"],
        "ladder": ["ladder.widen=1"],
        "board": ["port=0"],
        "sweep": ["best", "outputs/x"],
        "compare": ["a", "b"],
        "evaluate": ["checkpoint=x"],
        "generate": ["prompt=${x}, [y"],
        "export": ["out=x"],
        "info": ["checkpoint=x"],
        "new": ["x"],
        "prepare": ["data=text", "data.path=x", "out=x"],
    }[verb]
    assert main([verb, *overrides, "--cfg", "job"]) == 0
    out, err = capsys.readouterr()
    config = yaml.safe_load(out)
    assert "hydra" not in config
    if verb == "train":
        assert config["optimizer"]["lr"] == 3e-4
    assert err == ""
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "printed"),
    [
        ("optimizer", {"lr": 3e-4, "weight_decay": 0.1}),
        ("data", {"context_length": 64}),
        ("optimizer.lr", 3e-4),
    ],
)
def test_a_part_of_the_composed_config_is_printed(capsys, package, printed):
    words = [
        "model.context_length=64",
        "optimizer.lr=3e-4",
        "--cfg",
        "job",
        "--package",
        package,
        "--resolve",
    ]
    assert main(["train", *words]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found | printed if isinstance(printed, dict) else printed) == found


def test_hydras_own_settings_hold(capsys, place):
    assert (
        main(
            [
                "train",
                "name=${hydra:job.config_name}",
                "--cfg",
                "job",
                "--resolve",
                "--package",
                "name",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == "train\n"
    set_it = "+hydra.job.env_set.FIRSTLIGHT_TEST_NAME=lamp"
    words = [set_it, "checkpoint=${oc.env:FIRSTLIGHT_TEST_NAME}", "hydra.verbose=firstlight_test"]
    assert main(["info", *words]) == 2
    assert "${oc.env:FIRSTLIGHT_TEST_NAME}" in capsys.readouterr().err
    assert "FIRSTLIGHT_TEST_NAME" not in os.environ
    assert logging.getLogger("firstlight_test").level == logging.DEBUG


@pytest.mark.parametrize(
    ("verb", "words", "key"),
    [
        ("train", ["out=my=x"], "output_dir"),
        ("bench", ["out=my=x"], "output_dir"),
        ("export", ["output_dir=my=x"], "out"),
        ("compare", ["a", "output_dir=my=x"], "out"),
        ("lr-find", ["out=my=x"], "lr_find.out"),
        ("lr-find", ["output_dir=my=x"], "output_dir"),
    ],
)
def test_what_a_verb_writes_is_out_or_output_dir(capsys, verb, words, key):
    assert main([verb, *words, "--cfg", "job", "--package", key]) == 0
    assert capsys.readouterr().out == "my=x\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [("trainer.max_tokens", "null"), ("compile", "false"), ("optimizer.lr", "0.1")],
)
def test_a_single_value_is_shown_as_it_is_typed(capsys, key, value):
    assert main(["train", "optimizer.lr=0.1", "--cfg", "job", "--package", key]) == 0
    assert capsys.readouterr().out == f"{value}\n"


def test_a_verb_that_writes_nothing_has_no_such_key(capsys):
    assert main(["info", "checkpoint=x", "out=y"]) == 2
    assert "out: no such key" in capsys.readouterr().err


UNUSED = {
    "hydra.run.dir=x": "output_dir",
    "hydra.run={dir: x}": "output_dir",
    "hydra.sweep.dir=x": "output_dir",
    "+hydra.callbacks.x._target_=y": "only in a sweep",
    "+hydra/callbacks=x": "only in a sweep",
    "hydra.output_subdir=x": "only in a sweep",
    "++hydra.job.chdir=true": "only in a sweep",
}


@pytest.mark.parametrize(("word", "expected"), UNUSED.items())
@pytest.mark.parametrize("verb", ["train", "generate"])
def test_settings_of_hydra_that_would_have_no_effect_are_refused(
    capsys, place, verb, word, expected
):
    assert main([verb, word]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and word in err and expected in err


@pytest.mark.long
def test_callbacks_of_hydra_are_called_in_a_sweep(place, tiny, monkeypatch):
    (place / "noting.py").write_text(
        "from pathlib import Path\n"
        "from hydra.experimental.callback import Callback\n"
        "class Noting(Callback):\n"
        "    def on_multirun_end(self, **_):\n"
        "        Path('ended').touch()\n"
    )
    monkeypatch.syspath_prepend(place)
    callbacks = "+hydra.callbacks.noting._target_=noting.Noting"
    assert main(["train", "-m", *tiny, callbacks, "seed=choice(1)"]) == 0
    assert (place / "ended").exists()


def test_hydra_shows_what_it_knows(place):
    """In a process of its own, since Hydra leaves its way of logging behind."""
    (place / "mine").mkdir()
    options = [["--info", "searchpath"], ["--cfg", "hydra"], ["--cfg=all"]]
    out = in_process_of_its_own(
        "import sys; from firstlight.cli import main; before = list(sys.argv);"
        f" print([main(['train', *option, '--config-dir', 'mine']) for option in {options}],"
        " sys.argv == before)"
    )
    assert out.count(str(place / "mine")) == len(options)
    assert out.splitlines()[-1] == "[0, 0, 0] True"


REFUSED = {
    "train": ["data=text", "data.path=nowhere"],
    "evaluate": ["checkpoint=nowhere"],
    "generate": ["checkpoint=nowhere", "prompt=x"],
    "verify": ["output_dir=nowhere", "verify.kills=-1"],
    "sweep": ["status", "nowhere"],
    "compare": ["nowhere", "there"],
    "bench": ["data=text", "data.path=nowhere"],
    "plan": ["data=text", "data.path=nowhere"],
    "lr-find": ["data=text", "data.path=nowhere"],
    "coord-check": ["data=text", "data.path=nowhere"],
    "ladder": ["data=text", "data.path=nowhere"],
    "board": ["nowhere"],
    "info": ["checkpoint=nowhere"],
    "new": ["nowhere!"],
    "prepare": ["data.path=nowhere", "out=nowhere"],
    "export": ["checkpoint=nowhere", "out=x"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_gets_to_its_own_code(capsys, place, verb):
    assert main([verb, *REFUSED[verb]]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("nowhere" in err or "verify.kills" in err)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_working_folder_that_was_removed_is_one_line(capsys, place, verb):
    place.rmdir()
    assert main([verb]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith("firstlight: the working folder is not available") and err.count("\n") == 1
    )
    assert main(["--help"]) == 0


# ---- runs


def run_folders(place):
    """The run folders below outputs/, sorted."""
    return sorted(file.parents[1] for file in place.glob("outputs/**/.hydra/config.yaml"))


def test_a_run_makes_one_folder_that_says_what_it_was(place, tiny, capsys):
    assert main(["train", *tiny]) == 0
    assert [file.name for file in place.iterdir()] == ["outputs"]
    (folder,) = run_folders(place)
    assert folder.parent == place / "outputs" / "tiny"
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert config["model"]["emb_dim"] == 16
    assert config["data"]["context_length"] == 16  # interpolations are resolved
    assert set(tiny) <= set(yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text()))
    assert json.loads((folder / "environment.json").read_text())["firstlight"] == __version__
    assert capsys.readouterr().err == ""


def test_two_runs_in_one_second_get_two_folders(place, tiny):
    for _ in range(2):
        assert main(["train", *tiny, "output_dir=outputs/same_second"]) == 0
    assert [folder.name for folder in run_folders(place)] == ["same_second", "same_second_2"]


def test_runs_that_begin_together_get_a_folder_each(place):
    from firstlight.runs.writer import new_run_folder

    made, together, all_made = [], threading.Barrier(8), threading.Barrier(8)

    def begin():
        together.wait()
        with new_run_folder(place / "outputs" / "name" / "now", config={}, overrides=[]) as folder:
            made.append(folder)
            all_made.wait(60)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8
    assert all(folder.is_dir() for folder in made)


def test_the_console_script_is_installed():
    from importlib.metadata import entry_points

    (script,) = (e for e in entry_points(group="console_scripts") if e.name == "firstlight")
    assert script.load() is main


# ---- sweeps


@pytest.mark.long
def test_a_sweep_makes_one_folder_with_a_folder_for_each_trial(place, tiny, capsys):
    assert main(["train", "-m", *tiny, "optimizer.lr=1e-3,1e-4"]) == 0
    (sweep,) = (place / "outputs" / "tiny").iterdir()
    assert sweep.name.endswith("_sweep")
    runs = run_folders(place)
    assert [run.parent for run in runs] == [sweep, sweep]
    losses = []
    for number, (run, lr) in enumerate(zip(runs, (1e-3, 1e-4), strict=True)):
        assert run.name.startswith(f"{number}_")
        assert "optimizer.lr-" in run.name
        assert yaml.safe_load((run / ".hydra" / "config.yaml").read_text())["optimizer"]["lr"] == lr
        overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
        assert [o for o in overrides if o.startswith("optimizer.lr=")] == [f"optimizer.lr={lr}"]
        assert (run / "environment.json").is_file()
        assert (run / "model.safetensors").is_file()
        header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
        losses.append(float(rows[-1][header.index("val/loss")]))
    assert losses[0] != losses[1]
    said = capsys.readouterr().out
    assert f"best: val/loss {min(losses):.4f}" in said
    assert f"optimizer.lr={(1e-3, 1e-4)[losses.index(min(losses))]}" in said.splitlines()[-1]


@pytest.mark.long
def test_a_trial_that_fails_does_not_stop_the_others(place, tiny, capsys):
    Path("there.txt").write_text(SENTENCE * 20)
    assert main(["train", "-m", *tiny, "data.path=nowhere.txt,there.txt"]) == 1
    (run,) = [folder for folder in run_folders(place) if (folder / "model.safetensors").is_file()]
    assert run.name.startswith("1_")
    err = capsys.readouterr().err
    assert "1 of 2 trials failed" in err and "no such file" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("sweep", ["model=nano,nanoo", "model.n_layer=1,2", "tokenizer=bytes,nope"])
def test_a_sweep_with_a_misspelt_word_makes_no_folder(place, tiny, capsys, sweep):
    assert main(["train", "-m", *tiny, sweep]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(place.iterdir()) == []


def test_an_interrupted_command_ends_with_130(place, monkeypatch, capsys):
    import firstlight.commands.generate

    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(firstlight.commands.generate, "main", interrupt)
    assert main(["generate", "checkpoint=x", "prompt=x"]) == 130
    assert capsys.readouterr().err == "firstlight: interrupted\n"


def test_the_command_line_of_the_process_is_left_as_it_was(capsys):
    before = list(sys.argv)
    assert main(["generate", "checkpoint=nowhere", "prompt=x"]) == 2
    assert sys.argv == before


@pytest.mark.skipif(os.name == "nt", reason="no such shell")
def test_the_program_in_a_pipe_that_closes_does_not_trace_back(place):
    command = f"{shlex.quote(sys.executable)} -m firstlight train --help | head -1"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.startswith("firstlight train")
    assert "Traceback" not in result.stderr


def test_a_name_that_the_locale_cannot_write_is_one_line(tmp_path):
    (tmp_path / "text.txt").write_text("The lamp was lit, and the boats came home. " * 40)
    words = [
        "data=text",
        "data.path=text.txt",
        "tokenizer=bytes",
        "model.context_length=16",
        "output_dir=\u00e9",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", "train", *words],
        cwd=tmp_path,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(b"firstlight: '") and line.endswith(b"set PYTHONUTF8=1")
    assert {path.name for path in tmp_path.iterdir()} <= {"text.txt", "empty"}
