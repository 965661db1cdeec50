"""The wheel and the sdist work where there is no checkout."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def test_the_wheel_holds_the_config_and_the_stories_and_nothing_else(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert "firstlight/conf/train.yaml" in names
    assert "firstlight/new/template/.gitignore" in names
    assert "firstlight/new/template/src/mylab/conf/model/mylab.yaml" in names
    assert "firstlight/data/texts/the_lamplighters.txt" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"firstlight", "hydra_plugins"}
    assert "hydra_plugins/__init__.py" not in names  # a namespace that other plugins share


def test_the_sdist_has_no_runs_in_it(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = sdist.getnames()
    assert not [
        name for name in names if "outputs" in name or ".venv" in name or "__pycache__" in name
    ]


@pytest.mark.long
def test_installed_elsewhere_it_trains(dist, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    wheel = next(dist.glob("*.whl"))
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        wheel,
        cwd=tmp_path,
    )
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    # torch and the rest from here; .pth files found through a .pth file are not read, so our
    # checkout stays out
    packages = [
        folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")
    ]
    (site / "dependencies.pth").write_text("\n".join(packages), encoding="utf-8")
    where = run(python, "-c", "import firstlight; print(firstlight.__file__)", cwd=tmp_path)
    assert str(site) in where
    command = tmp_path / "venv" / "bin" / "firstlight"
    small = (
        "tokenizer=bytes",
        "model.emb_dim=16",
        "model.n_layers=1",
        "model.n_heads=2",
        "data.eval_batches=1",
    )
    out = run(
        command, "train", "trainer.max_steps=2", "scheduler.warmup_steps=1", *small, cwd=tmp_path
    )
    assert "done: 2 steps" in out
    assert len(list(tmp_path.glob("outputs/quickstart/*/model.safetensors"))) == 1
    run(command, "new", "ownlab", cwd=tmp_path)
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", "ownlab")
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    words = ("experiment=ownlab", "trainer.max_steps=2", "scheduler.warmup_steps=1", *small)
    assert "PowerGPT" in run(command, "train", *words, cwd=tmp_path)
