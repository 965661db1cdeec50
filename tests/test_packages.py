"""Parts of installed packages are found by their entry points, in every verb."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from own_package import TINY, installed, new_package, with_conf

import firstlight
from firstlight.api.language_model import _plain
from firstlight.cli import main
from firstlight.conf_files import text_keys
from firstlight.config import _target_of
from firstlight.errors import ConfigError
from firstlight.packages import found, with_extra
from firstlight.runs.environment import parts_from
from firstlight.runs.writer import update_run_folder


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package that `firstlight new` has written, installed."""
    return new_package(tmp_path_factory.mktemp("own"), "ownlab")


@pytest.fixture
def ownlab(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("PYTHONPATH", str(package))  # for the processes of a sweep
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownlab"]:
        del sys.modules[name]


def composed(capsys, *words):
    """The config of `firstlight train WORDS`, as --cfg job shows it, and what stands on stderr."""
    code = main(["train", "--cfg", "job", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_its_choices_are_listed_and_can_be_chosen(ownlab, capsys):
    assert main(["train", "experiment=ownlab", "--help", "all"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for words in ("model=ownlab one of ", "experiment=ownlab one of ", "of ReLU, 1 to 4"):
        assert words in page
    assert composed(capsys, "callbacks=[default,ownlab]", "model=glob(own*)")[0] == 0
    code, config, notes = composed(capsys, "experiment=ownlab", "model.power=3")
    assert (code, notes) == (0, "") and "power: 3" in config and "WeightNorms" in config


def test_a_run_is_made_resumed_sampled_and_says_with_what_it_was_made(ownlab, capsys, monkeypatch):
    assert main(["train", "experiment=ownlab", *TINY, "output_dir=run"]) == 0
    assert json.loads(Path("run/environment.json").read_text())["parts_from"] == {"ownlab": "0.1.0"}
    assert "weight_norm/tok_emb" in Path("run/metrics.csv").read_text()
    assert main(["train", "resume=run", "trainer.max_steps=3"]) == 0
    assert main(["generate", "checkpoint=run", "prompt=The lamp", "max_new_tokens=3"]) == 0
    assert main(["train", *TINY, "output_dir=other"]) == 0
    assert "parts_from" not in json.loads(Path("other/environment.json").read_text())
    capsys.readouterr()
    # Where the package is not installed, its classes may not be named.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(ownlab)])
    assert main(["train", "resume=run", "trainer.max_steps=4"]) == 2
    assert "'ownlab.model.PowerGPT' is not in a package" in capsys.readouterr().err


def test_the_python_api_finds_it(ownlab):
    config = firstlight.compose("experiment=ownlab", "model.power=3")
    assert config["model"]["_target_"] == "ownlab.model.PowerGPT"
    assert "ownlab" in config["callbacks"]


def test_what_is_installed_or_edited_between_two_calls_is_found(tmp_path, monkeypatch):
    """As in a notebook, whose process has looked before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not found().packages and "decoding.mood" not in text_keys()
    greedy = "defaults:\n  - greedy\n"
    os.utime(tmp_path, ns=(1, 1))
    with_conf(tmp_path, "latelab", {"decoding/late.yaml": greedy})
    assert [package.module for package in found().packages] == ["latelab"]
    file = tmp_path / "latelab" / "conf" / "decoding" / "late.yaml"
    file.write_text(f"{greedy}mood: x # text: of the day\n")
    assert "decoding.mood" in text_keys()
    file.write_text("defaults:\n  - sample\n  - _self_\ntemperature: 0.5\n")
    words = ("checkpoint=last", "decoding=late")
    assert _plain(words)["decoding"]["temperature"] == 0.5
    file.write_text(file.read_text().replace("0.5", "0.25"))
    assert _plain(words)["decoding"]["temperature"] == 0.25


@pytest.mark.long
def test_a_sweep_finds_it_in_every_trial(ownlab):
    words = ["train", "-m", "experiment=ownlab", "model.power=1,2", *TINY, "output_dir=sweep"]
    assert main(words) == 0
    assert len(list(Path("sweep").glob("*/model.safetensors"))) == 2


def test_a_change_of_its_version_is_told_on_resume(tmp_path):
    (tmp_path / ".hydra").mkdir()
    config = {"model": {"_target_": "pytest.Model"}, "loss": [{"_target_": "torch.optim.SGD"}]}
    assert list(parts_from(config)) == ["pytest"]
    known = {"python": "3", "parts_from": {"pytest": "0.0, commit abc"}}
    (tmp_path / "environment.json").write_text(json.dumps(known))
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[]\n")
    changed = update_run_folder(tmp_path, config=config, overrides=[])
    assert changed["pytest"][0] == "0.0, commit abc"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("nowhere_at_all", "no package nowhere_at_all"),
        ("json", "json has no folder conf"),
        ("mylab:conf", "'mylab:conf' is not the name of a package"),
        ("raising.inner", "raising.inner cannot be imported (broken)"),
        ("", "is not the name of a package"),
    ],
)
def test_a_broken_one_is_one_line_and_the_others_keep_working(
    ownlab, capsys, tmp_path, monkeypatch, value, problem
):
    (tmp_path / "raising").mkdir()
    (tmp_path / "raising" / "__init__.py").write_text("raise RuntimeError('broken')")
    installed(tmp_path, "brokenlab", value=value or " ")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, config, notes = composed(capsys, "model=ownlab")
    assert code == 0 and "PowerGPT" in config
    [line] = notes.splitlines()
    assert line.startswith("note: package brokenlab: ") and problem in line


def test_what_damages_another_package_is_not_ours(ownlab, tmp_path, monkeypatch):
    for name, content in {"a": b"[firstlight.conf]\nno equals sign\n", "b": b"\xff\xfe"}.items():
        installed(tmp_path, name)
        next(tmp_path.glob(f"{name}-*/entry_points.txt")).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [package.module for package in found().packages] == ["ownlab"]


CALLBACK = "{}:\n  _target_: lightning.pytorch.callbacks.LambdaCallback\n"


def test_a_choice_of_two_packages_is_refused_when_it_is_chosen(
    ownlab, capsys, tmp_path, monkeypatch
):
    files = {
        "model/ownlab.yaml": "defaults:\n  - nano\n  - _self_\n",
        "model/otherlab.yaml": "defaults:\n  - modern_nano\n  - _self_\n",
        "model/modern_nano.yaml": "defaults:\n  - base\n",
        "experiment/otherlab.yaml": (
            "# @package _global_\ndefaults:\n  - override /callbacks: [default, set]\n"
        ),
        "callbacks/set.yaml": CALLBACK.format("mine"),
    }
    with_conf(tmp_path, "otherlab", files)
    with_conf(tmp_path, "third", {"callbacks/set.yaml": CALLBACK.format("mine")})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert composed(capsys, "model=gpt2_small")[0] == 0
    both = "both otherlab 0.1.0 and ownlab 0.1.0 have this choice"
    for words, problem in (
        (["model=ownlab"], f"model/ownlab: {both}"),
        (["experiment=ownlab"], f"model/ownlab: {both}"),
        (["model=modern_nano"], "model/modern_nano: both firstlight and otherlab 0.1.0 have"),
        (["model=otherlab"], "model/modern_nano: both firstlight"),  # it is based on that
        (["callbacks=[default,set]"], "callbacks/set: both otherlab 0.1.0"),
        (["experiment=otherlab"], "callbacks/set: both otherlab 0.1.0"),
    ):
        code, _, notes = composed(capsys, *words)
        assert code == 2 and problem in notes and len(notes.splitlines()) == 1, words


def test_what_firstlight_chooses_by_itself_stays_its_own(capsys, tmp_path, monkeypatch):
    """A package that has callbacks/default, too, does not stand in the way of every run."""
    plain = composed(capsys)
    files = {
        "callbacks/default.yaml": CALLBACK.format("mine"),
        "model/nano.yaml": "defaults:\n  - base\n",
        "experiment/lab.yaml": (
            "# @package _global_\ndefaults:\n  - override /callbacks: [default]\n"
        ),
    }
    place = with_conf(tmp_path, "lab", files)
    monkeypatch.syspath_prepend(str(place))
    assert composed(capsys) == plain and plain[0] == 0
    for word in ("callbacks=[default,early_stopping]", "model=nano", "experiment=lab"):
        code, _, notes = composed(capsys, word)
        assert code == 2 and "both firstlight and lab 0.1.0 have this choice" in notes
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(place)])
    assert composed(capsys, "--config-dir", str(place / "lab" / "conf"))[0] == 2


def test_a_config_dir_may_be_that_of_the_package_but_may_not_hide_choices(ownlab, capsys):
    own = str(ownlab / "ownlab" / "conf")
    assert composed(capsys, "--config-dir", own, "experiment=ownlab")[0] == 0
    copy = shutil.copytree(own, "copy")
    code, _, notes = composed(capsys, "--config-dir", str(copy), "experiment=ownlab")
    assert code == 2 and "both ownlab 0.1.0 and --config-dir" in notes
    assert composed(capsys, "--config-dir", str(copy))[0] == 0


def test_other_programs_of_hydra_do_not_get_it(ownlab, tmp_path):
    (tmp_path / "app" / "model").mkdir(parents=True)
    (tmp_path / "app" / "config.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path / "app"), version_base="1.3"):
        assert compose("config").a == 1
        with pytest.raises(MissingConfigException):
            compose("config", ["+model=ownlab"])


def test_a_config_may_name_its_classes_and_no_others(ownlab):
    assert _target_of("model", "ownlab.model.PowerGPT").__name__ == "PowerGPT"
    for name in ("ownlab2.model.PowerGPT", "ownlab.model.nn.Linear"):
        with pytest.raises(ConfigError):
            _target_of("model", name)


def test_tab_completion_knows_its_choices_and_keys(ownlab, capsys):
    for line, expected in {
        "model=own": "model=ownlab\t",
        "model=ownlab model.po": "model.power=",
    }.items():
        assert main(["--complete", "fish", f"firstlight train {line}"]) == 0
        assert capsys.readouterr().out.startswith(expected)


def test_an_extra_is_installed_from_the_checkout_or_by_its_packages(tmp_path, monkeypatch):
    checkout = Path(__file__).parents[1]
    assert with_extra("zstd") == f"pip install -e '{checkout}[zstd]'"
    monkeypatch.chdir(checkout)
    assert with_extra("zstd") == "pip install -e '.[zstd]'"
    # Installed as a wheel there is no checkout, and no index has the name firstlight.
    monkeypatch.setattr("firstlight.packages.__file__", str(tmp_path / "a" / "b" / "packages.py"))
    listed = ["torch", "zstandard<1,>=0.23; extra == 'zstd'", 'zstandard; extra == "zstd-tests"']
    monkeypatch.setattr("firstlight.packages.requires", lambda name: listed)
    assert with_extra("zstd") == "pip install 'zstandard<1,>=0.23'"
