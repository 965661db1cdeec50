"""The corpora and experiments that come with firstlight, on stand-ins for the real files."""

import re
from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub
from omegaconf import OmegaConf

from firstlight.cli import main
from firstlight.compose.compose import compose_config
from firstlight.conf_files import conf_dir
from firstlight.config import check_config
from firstlight.prepare.command import arguments
from firstlight.training.experiment import Experiment

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TINY = (
    "model.n_layers=1",
    "model.emb_dim=16",
    "model.n_heads=2",
    "model.context_length=16",
    "data.batch_size=4",
    "data.eval_batches=1",
    "scheduler.warmup_steps=1",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "~callbacks.plots",
)
FILES = {
    "tinystories": [
        "data/train-00000-of-00004-2d5a1467fff1081b.parquet",
        "data/train-00001-of-00004-5852b56a2bd28fd9.parquet",
        "data/validation-00000-of-00001-869c898b519ad725.parquet",
    ],
    "fineweb_edu_10b": [
        "data/CC-MAIN-2013-20/train-00000-of-00014.parquet",
        "sample/10BT/000_00000.parquet",
        "sample/10BT/013_00000.parquet",
    ],
}
"""Names of files as the datasets have them; of others than the corpus takes, too."""
COLUMNS = {
    "tinystories": ["text"],
    "fineweb_edu_10b": ["text", "id", "dump", "url", "file_path", "language", "score"],
}


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub(request, tmp_path, monkeypatch):
    """A hub with the dataset of a corpus, in the revision that it names."""
    from huggingface_hub import constants

    corpus = request.param
    dataset = compose_config("prepare", [f"corpus={corpus}"]).data.dataset
    repo, _, commit = dataset.partition("@")
    assert re.fullmatch("[0-9a-f]{40}", commit)  # what is shipped never changes
    files = {name: parquet(tmp_path, corpus, name) for name in FILES[corpus]}
    with FakeHub(repo, files, kind="datasets", commit=commit) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def parquet(folder, corpus, name):
    """A file with a hundred and fifty documents that name it, and the dataset's columns."""
    columns = {column: [f"{column} {i}" for i in range(150)] for column in COLUMNS[corpus]}
    columns["text"] = [f"{name}, {i}. Tom had a red ball. He ran and ran." for i in range(150)]
    pq.write_table(pa.table(columns), folder / "stand_in", compression="zstd")
    return (folder / "stand_in").read_bytes()


def tokens_of(folder, split):
    return sum(
        len(np.fromfile(file, dtype=np.uint16, offset=1024))
        for file in Path(folder).glob(f"{split}_*.bin")
    )


@pytest.mark.parametrize(
    ("hub", "experiment", "changes"),
    [
        ("tinystories", "tinystories", ["tokenizer.vocab_size=300"]),
        ("fineweb_edu_10b", "fineweb_edu_gpt2_124m", []),
    ],
    indirect=["hub"],
    ids=["tinystories", "fineweb_edu"],
)
def test_a_corpus_is_prepared_and_its_experiment_trains(hub, experiment, changes, capsys, request):
    corpus = request.node.callspec.params["hub"]
    if corpus == "fineweb_edu_10b":
        request.getfixturevalue("gpt2_vocabulary")
    train = ["train", f"experiment={experiment}", *TINY]
    assert main(train) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no such folder; make it first, once: " in told
    assert told.endswith(f"firstlight prepare corpus={corpus}\n")
    prepare = ["prepare", f"corpus={corpus}", "data.train_ratio=0.8", "workers=1", *changes]
    assert main(prepare) == 0
    out = compose_config("prepare", prepare[1:]).out
    assert "300 documents" in capsys.readouterr().out  # of the two files that the corpus takes
    assert tokens_of(out, "train") > 3 * tokens_of(out, "val") > 0
    assert main(train) == 0
    assert (
        "val/loss" in Path(next(Path("outputs", experiment).iterdir()), "metrics.csv").read_text()
    )


@pytest.mark.parametrize("corpus", [f.stem for f in Path(conf_dir(), "corpus").glob("*.yaml")])
def test_every_corpus_is_a_valid_call_and_an_experiment_trains_from_it(corpus):
    config = compose_config("prepare", [f"corpus={corpus}"])
    out = config.out
    arguments(config)
    paths = {
        OmegaConf.select(OmegaConf.load(file), "data.path")
        for file in Path(conf_dir(), "experiment").glob("*.yaml")
    }
    assert out in paths


def test_the_large_run_is_the_published_one():
    """Batch, length and schedule of llm.c's scripts/run_gpt2_124M.sh."""
    config = compose_config("train", ["experiment=fineweb_edu_gpt2_124m"])
    plain = check_config(
        OmegaConf.masked_copy(config, [key for key in config if key not in ("sweep", "seeds")]),
        Experiment,
    )
    assert plain["data"]["batch_size"] * plain["model"]["context_length"] == 524288
    assert (plain["scheduler"]["warmup_steps"], plain["trainer"]["max_steps"]) == (700, 18865)
    assert plain["optimizer"]["lr"] == 6e-4 and plain["optimizer"]["weight_decay"] == 0.1
    assert plain["model"]["vocab_size"] == 50304 and plain["model"]["tie_weights"]
