"""Datasets in Hugging Face's format: folders here, the hub through the same functions."""

import json
import re

import pytest

from firstlight.data.huggingface import HuggingFaceData
from firstlight.data.order import SeededOrder
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.packages import with_extra

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

STORIES = ["The lamp was lit.", "Лампа горела всю ночь.", "灯りがともった。"]


def hf_data(dataset, **settings):
    return HuggingFaceData(
        dataset=str(dataset),
        tokenizer=BytesTokenizer(),
        order=SeededOrder(seed=1),
        context_length=8,
        **settings,
    )


def read(dataset, **settings):
    return hf_data(dataset, **settings).documents()


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def made(texts=STORIES, column="text"):
    return datasets.Dataset.from_dict({column: texts, "n": list(range(len(texts)))})


def test_a_folder_that_was_saved_to_disk_is_read(tmp_path):
    made().save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == STORIES
    both = datasets.DatasetDict({"train": made(), "test": made(STORIES[:1])})
    both.save_to_disk(tmp_path / "both")
    assert read(tmp_path / "both", split="test") == STORIES[:1]
    with pytest.raises(ValueError, match="it has no split 'val', only train, test"):
        read(tmp_path / "both", split="val")


def test_the_logging_of_datasets_is_as_before(tmp_path):
    made().save_to_disk(tmp_path / "one")
    before = datasets.logging.get_verbosity()
    assert read(tmp_path / "one", max_documents=1) == STORIES[:1]
    with pytest.raises(ValueError, match="no such folder"):
        read(tmp_path / "two")
    assert datasets.logging.get_verbosity() == before


def write_folder(folder, kind):
    folder.mkdir()
    for split, texts in {"train": STORIES, "test": STORIES[:1]}.items():
        if kind == "parquet":
            made(texts).to_parquet(folder / f"{split}-00000-of-00001.parquet")
        else:
            lines = [json.dumps({"text": text, "n": n}) for n, text in enumerate(texts)]
            (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_folder_of_files_is_read_split_by_split(tmp_path, kind):
    folder = write_folder(tmp_path / "files", kind)
    data = hf_data(folder)
    assert data.documents() == list(data.iter_documents()) == STORIES
    assert read(folder, split="test") == STORIES[:1]
    assert read(folder, max_documents=2) == STORIES[:2]
    assert not list(tmp_path.glob("cache/**/*.arrow"))  # nothing is written twice
    with pytest.raises(ValueError, match="val"):
        read(folder, split="val")
    with pytest.raises(
        ValueError, match=r"has no column 'content'; it has text, n: give data\.field"
    ):
        read(folder, field="content")
    with pytest.raises(ValueError, match=r"'n' (has values of type int64|is 0), not "):
        read(folder, field="n")


def test_a_name_of_the_hub_goes_through_the_same_library(tmp_path, monkeypatch):
    """The hub is offline here: its builder is that of a folder."""
    folder = write_folder(tmp_path / "files", "parquet")
    real = datasets.load_dataset_builder
    asked = []

    def builder(path, **settings):
        asked.append((path, settings["name"], settings["revision"]))
        return real(str(folder), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    assert read("owner/name@v2", subset="en") == STORIES
    assert list(tmp_path.glob("cache/**/*.arrow"))  # downloaded, and kept
    assert read("owner/name", max_documents=1) == STORIES[:1]
    assert asked == [("owner/name", "en", "v2"), ("owner/name", None, None)]


def test_what_was_read_is_told(tmp_path):
    made([*STORIES, " ", STORIES[0]] * 4).save_to_disk(tmp_path / "one")
    data = hf_data(tmp_path / "one", max_documents=18)
    data.setup()
    first, second, *_ = data.summary().splitlines()
    assert first.endswith("one, split train, the first 18 documents, 3 without text left out")
    assert second.startswith("15 documents, ") and "; 12 duplicates; letters: Latin" in second


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([None, "a"], r"row 0: 'text' is None, not a text"),
        ([" ", ""], "has no text in 'text'"),
        ([["a"], ["b"]], "'text' has values of type a structure, not texts"),
    ],
)
def test_a_column_without_texts_is_refused(tmp_path, texts, words):
    made(texts).save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "one")


def test_what_is_not_there_or_is_damaged_ends_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.jsonl").write_text('{"text": "a"}\n{"text"')
    (tmp_path / "tar").mkdir()
    (tmp_path / "tar" / "a.tar").write_bytes(b"a.txt".ljust(512, b"\0"))
    made().save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text("{")
    for name, words in {
        tmp_path / "missing": "no such folder",
        "./missing": "no such folder",
        "owner/name": "on the [Hh]ub",
        tmp_path / "empty": "empty",
        tmp_path / "odd": "odd",
        tmp_path / "tar": r"its files are webdataset; json, parquet, csv, arrow, text can be read",
        tmp_path / "one": "one",
    }.items():
        with pytest.raises(ValueError, match=words) as caught:
            read(name)
        assert "\n" not in str(caught.value) and str(name) in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=re.escape(with_extra("datasets"))):
        read("owner/name")
