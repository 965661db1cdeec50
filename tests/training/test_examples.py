"""The package in examples/, used as a user's own is: built, installed, found by its entry point,
its models trained, sampled, resumed and swept."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_run import TINY, rows_of, same_weights

from firstlight.cli import main
from firstlight.commands.generate import generate
from firstlight.decoding.greedy import Greedy

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = ("parallel_alibi", "min_gru", "experts")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(
        EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__")
    )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("firstlight_examples-*.whl")
    return wheel


@pytest.fixture
def _installed(wheel, tmp_path, monkeypatch):
    """The wheel is unpacked into a folder on sys.path, which is what pip does with it."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))  # for the processes of a sweep


def settings_of(model: str) -> list[str]:
    """Overrides of the smallest run of `model`."""
    heads = () if model == "min_gru" else ("model.n_heads=2",)
    return [f"model={model}", *(word for word in TINY if word != "model.n_heads=2"), *heads]


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("model", MODELS)
def test_an_example_trains_is_sampled_and_resumed(model, capsys):
    words = settings_of(model)
    assert main(["train", *words, "output_dir=run", "trainer.max_steps=8"]) == 0
    losses = [float(row["train/batch_loss"]) for row in rows_of("run") if row["train/batch_loss"]]
    assert losses[-1] < losses[0]
    settings = {"decoding": Greedy(), "prompt": "The lamp", "seed": 1}
    text = "".join(generate(checkpoint="run", max_new_tokens=30, **settings))  # beyond the context
    assert text.startswith("The lamp")
    fast = generate(checkpoint="run", max_new_tokens=30, prompt_lookup=4, **settings)
    assert "".join(fast) == text
    assert main(["evaluate", "format=json", "checkpoint=run"]) == 0
    assert "warning" not in capsys.readouterr().err.lower()
    assert main(["train", *words, "output_dir=whole", "trainer.max_steps=10"]) == 0
    assert main(["train", "resume=run", "trainer.max_steps=10"]) == 0
    assert same_weights("run", "whole")


@pytest.mark.long
@pytest.mark.usefixtures("_installed")
def test_the_examples_are_swept_together():
    words = [
        word for word in settings_of("min_gru") if not word.startswith(("model=", "model.emb"))
    ]
    points = [f"model={','.join(MODELS)}", "trainer.max_steps=2", "model.emb_dim=24"]
    assert main(["train", "-m", *words, *points, "output_dir=sweep"]) == 0
    assert len(list(Path("sweep").glob("*/model.safetensors"))) == len(MODELS)


def test_the_package_is_built_with_its_models_and_their_config(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for model in MODELS:
        assert f"firstlight_examples/{model}.py" in names
        assert f"firstlight_examples/conf/model/{model}.yaml" in names
    assert not [name for name in names if "test" in name]
