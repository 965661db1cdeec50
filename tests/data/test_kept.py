"""The tokens of a large text are kept: the same as those of a text in memory, and never stale."""

import gzip
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from at_each_operation import DONE, ends_of

from firstlight.cli import main
from firstlight.data import documents, documents_in_files, kept, reading
from firstlight.data.kept import KeptTokens
from firstlight.data.order import SeededOrder
from firstlight.data.shards.shard import SUFFIX
from firstlight.data.text import TextData
from firstlight.data.tokenizers import base
from firstlight.data.tokenizers.base import StoredTokenizer
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.runs.run_folder import RunFolder

STORY = "The lamp went out, and nobody on the quay could say at what hour; naïve 灯火. "


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def large(monkeypatch):
    """Every text counts as large, and is read and encoded in many small parts."""
    monkeypatch.setattr(documents_in_files, "SMALL", 0)
    monkeypatch.setattr(documents, "BLOCK", 50)
    monkeypatch.setattr(base, "PIECE", 64)


def read(path, *, stage=None, tokenizer=None, **settings):
    data = TextData(
        path=path,
        tokenizer=tokenizer or BytesTokenizer(),
        order=SeededOrder(seed=1),
        **{"context_length": 8, "batch_size": 4, "format": "auto", **settings},
    )
    data.setup(stage)
    return data


def told(data):
    """All that a run takes from its text, and all that is said of it."""
    windows = {}
    for name, of_split in data.windows.items():
        rows = of_split[torch.arange(len(of_split))]
        windows[name] = [part.tolist() for part in (*rows, *of_split[of_split.rest_index])]
    return windows, data.fingerprint(), data.summary(), data.notes, data.tokenizer.state_dict()


def tokens_files():
    return sorted(Path("cache").rglob(f"*{SUFFIX}"))


def write_texts():
    """Files of each kind, with all that is noted about files."""
    Path("a.txt").write_text((STORY * 9 + "\r\n<|endoftext|> and\r") * 3, newline="")
    Path("b.md").write_text(STORY * 5 + "\0")
    Path("copy.txt").write_text(STORY * 5 + "\0")
    Path("empty.txt").write_text(" \n")
    rows = [json.dumps({"text": f"{n} {STORY}"}) for n in range(20)]
    Path("c.jsonl").write_text("\n".join([*rows, json.dumps({"text": "  "})]))
    with gzip.open("d.txt.gz", "wt") as stream:
        stream.write(STORY * 7)
    return ["a.txt", "b.md", "empty.txt", "c.jsonl", "copy.txt", "d.txt.gz"]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
@pytest.mark.parametrize(
    "settings",
    [
        {"eval_last_window": True},
        {"special_tokens": True, "stride": 3},
        {"test_ratio": 0.2, "train_ratio": 0.55},
    ],
    ids=["as it is", "with special tokens", "three splits"],
)
def test_kept_tokens_are_those_of_the_text_in_memory(tokenizer, settings, request):
    def make():
        return BPETokenizer(vocab_size=300) if tokenizer == "bpe" else BytesTokenizer()

    paths = write_texts()
    wanted = told(read(paths, tokenizer=make(), **settings))
    assert tokens_files() == [] and len(wanted[3]) == 3
    request.getfixturevalue("large")
    for _ in range(2):  # encoded, and found again
        assert told(read(paths, tokenizer=make(), **settings)) == wanted
    # As a run that is resumed, or measured, has it.
    stored = StoredTokenizer(wanted[4])
    assert told(read(paths, tokenizer=stored, **settings))[:2] == wanted[:2]
    assert len(tokens_files()) == len(wanted[0])


def test_a_text_is_kept_whole_too(large, monkeypatch):
    Path("a.txt").write_text(STORY * 30)
    tokenizer = BytesTokenizer()
    tokenizer.fit([])
    for _ in range(2):
        data = read("a.txt", stage="all", tokenizer=tokenizer)
        assert list(data.windows) == ["all"] and data.windows["all"].n_tokens == len(
            (STORY * 30).encode()
        )
    monkeypatch.setattr(documents_in_files, "SMALL", 2**24)
    assert data.sha256() == read("a.txt", stage="all", tokenizer=tokenizer).sha256()


@pytest.mark.parametrize("tokenizer", [BytesTokenizer, lambda: BPETokenizer(vocab_size=270)])
def test_a_second_start_reads_no_text(large, tokenizer, monkeypatch):
    paths = write_texts()
    # Files that have just been written are not taken to be as they were.
    monkeypatch.setattr("firstlight.data.remembered.SETTLED", 0)
    first = told(read(paths, tokenizer=tokenizer()))
    for file in paths:
        Path(file).chmod(0)  # read by root all the same
    opened = []
    plain = Path.open

    def watched(self, *arguments, **more):
        opened.append(self.name)
        return plain(self, *arguments, **more)

    for file in paths:
        Path(file).chmod(0o644)
    read(paths, tokenizer=tokenizer())  # the time of the entry has changed: the hash is found again
    monkeypatch.setattr(Path, "open", watched)
    assert told(read(paths, tokenizer=tokenizer())) == first
    assert opened and not set(opened) & set(paths)


def test_a_text_that_has_changed_is_noticed_and_one_that_was_only_moved_is_not_encoded_again(
    large, capsys
):
    Path("a.txt").write_text(STORY * 30)
    first = read("a.txt").fingerprint()
    assert "encoding 0 MB, once" in capsys.readouterr().err
    before = Path("a.txt").stat()
    # The same size, and the time of change set back: what rsync and editors may do.
    Path("a.txt").write_text(STORY * 29 + STORY.replace("lamp", "ramp"))
    os.utime("a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = read("a.txt").fingerprint()
    assert changed["sha256"] != first["sha256"] and "encoding" in capsys.readouterr().err
    Path("a.txt").write_text(STORY * 30)
    Path("a.txt").rename("b.txt")
    assert read("b.txt").fingerprint() == first
    assert "encoding" not in capsys.readouterr().err
    # What else decides the tokens has its own.
    for settings in ({"train_ratio": 0.8}, {"special_tokens": True}, {"format": "text"}):
        read("b.txt", **settings)
        assert ("encoding" in capsys.readouterr().err) == ("format" not in settings)


@pytest.mark.parametrize("new", [STORY * 31, STORY * 29, STORY[::-1] * 30])
def test_a_text_that_changes_while_it_is_read_is_refused_and_nothing_is_kept(
    new, large, monkeypatch
):
    Path("a.txt").write_text(STORY * 30)
    whole = reading.splits_of

    def changing(*arguments):
        Path("a.txt").write_text(new)
        return whole(*arguments)

    monkeypatch.setattr(reading, "splits_of", changing)
    with pytest.raises(ValueError, match="has changed while it was read"):
        read("a.txt")
    assert tokens_files() == []


def test_a_file_that_comes_after_the_first_look_is_not_in_the_tokens(large, monkeypatch):
    Path("texts").mkdir()
    Path("texts/a.txt").write_text(STORY * 30)
    alone = read("texts").fingerprint()
    shutil.rmtree("cache")
    whole = KeptTokens.alone

    def late(self):
        Path("texts/b.txt").write_text(STORY)
        return whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(KeptTokens, "alone", late)
        assert read("texts").fingerprint() == alone
    assert read("texts").fingerprint() != alone


@pytest.mark.parametrize("how", ["a bit", "cut short", "missing", "kept.json", "of another"])
def test_what_is_damaged_is_noted_and_made_again(large, how, capsys):
    Path("a.txt").write_text(STORY * 30)
    first = told(read("a.txt"))
    [train, _] = tokens_files()
    content = bytearray(train.read_bytes())
    if how == "a bit":
        content[-1] ^= 1
    elif how == "cut short":
        del content[-2:]
    elif how == "of another":
        content = bytearray(tokens_files()[1].read_bytes())
    train.write_bytes(content)
    if how == "missing":
        train.unlink()
    elif how == "kept.json":
        file = train.with_name("kept.json")
        file.write_text(file.read_text().replace('"tokens": ', '"tokens": 1'))
    capsys.readouterr()
    assert told(read("a.txt")) == first
    assert "are damaged" in capsys.readouterr().err
    assert told(read("a.txt")) == first
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["kill", pytest.param("full disk", marks=pytest.mark.long)])
def test_whatever_ends_a_first_start_the_next_one_is_right(large, how, monkeypatch):
    Path("a.txt").write_text(STORY * 30)
    make = lambda: BPETokenizer(vocab_size=270)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(documents_in_files, "SMALL", 2**24)
        wanted = told(read("a.txt", tokenizer=make()))[:2]

    def first_start():
        # Without room tokens are in memory, and the run is the same.
        assert told(read("a.txt", tokenizer=make()))[:2] == wanted

    for code in ends_of(first_start, str(Path("cache").absolute()), how, 3):
        assert told(read("a.txt", tokenizer=make()))[:2] == wanted
        assert len(tokens_files()) == 2 and not list(Path("cache/texts").rglob("*.tmp"))
        shutil.rmtree("cache")
        if code == DONE:
            break


@pytest.mark.parametrize("place", ["a file", "/proc"])
def test_where_nothing_can_be_kept_tokens_are_in_memory_and_that_is_said(large, place):
    Path("a.txt").write_text(STORY * 30)
    wanted = told(read("a.txt"))
    Path("a file").write_text("")
    data = read("a.txt", cache_dir=place)
    assert told(data)[:2] == wanted[:2] and list(data.ids) == ["train", "val"]
    [note] = data.notes
    assert note.startswith(f"{place}: tokens cannot be kept (") and "data.cache_dir=..." in note


def test_of_two_processes_the_second_waits_for_the_tokens_of_the_first(large, monkeypatch, capsys):
    Path("a.txt").write_text(STORY * 30)
    encoded, found = [], []
    whole = KeptTokens.writing

    def slow(self, *arguments):
        encoded.append(self)
        time.sleep(0.3)
        return whole(self, *arguments)

    monkeypatch.setattr(KeptTokens, "writing", slow)

    def start():
        found.append(told(read("a.txt")))

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(encoded) == 1 and found[0] == found[1] == found[2]
    assert "another process is encoding this text: waiting" in capsys.readouterr().err


def test_a_vocabulary_of_a_long_text_is_learned_from_a_sample_wherever_the_tokens_are(
    large, monkeypatch
):
    monkeypatch.setattr(reading, "MOST_LEARNED", 400)
    monkeypatch.setattr("firstlight.data.datamodule.MOST_LEARNED", 400)
    monkeypatch.setattr(reading, "LEARNED_PARTS", 4)
    Path("a.txt").write_text(STORY * 5 + "the fog horn, " * 40 + STORY * 20)
    make = lambda: BPETokenizer(vocab_size=290)  # noqa: E731
    kept_first, kept_again = read("a.txt", tokenizer=make()), read("a.txt", tokenizer=make())
    monkeypatch.setattr(documents_in_files, "SMALL", 2**24)
    in_memory = read("a.txt", tokenizer=make())
    assert told(kept_first) == told(kept_again) == told(in_memory)
    [note] = in_memory.notes
    assert note.startswith("the vocabulary was learned from a sample of 400 of the ")


def test_a_text_of_nothing_and_one_too_short_are_refused_as_in_memory(large):
    Path("a.txt").write_text(" \n" * 30)
    with pytest.raises(ValueError, match=r"path \(a.txt\) has no text in it"):
        read("a.txt")
    Path("b.txt").write_text("a" * 100)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"val split has 10 tokens.*context_length=9 or a l"):
            read("b.txt", context_length=10)
    with pytest.raises(ValueError, match="no such file"):
        read("c.txt")


def test_many_tokens_are_kept_in_several_files(large, monkeypatch):
    Path("a.txt").write_text(STORY * 30)
    wanted = told(read("a.txt"))
    shutil.rmtree("cache")
    monkeypatch.setattr(kept, "SHARD_TOKENS", 500)
    assert told(read("a.txt")) == wanted
    assert [file.name for file in tokens_files()][:2] == ["train_000000.bin", "train_000001.bin"]


def test_workers_read_kept_tokens(large):
    Path("a.txt").write_text(STORY * 30)
    read("a.txt")
    batches = [
        [
            inputs.tolist()
            for inputs, _ in read("a.txt", num_workers=n).train_batches(start=3, stop=9)
        ]
        for n in (0, 1)
    ]
    assert batches[0] == batches[1]


TINY = (
    "model.context_length=16", "model.emb_dim=16", "model.n_heads=2", "model.n_layers=1", "data.batch_size=8",
    "scheduler=constant", "trainer.max_steps=12", "trainer.eval_every_n_steps=6", "trainer.accelerator=cpu",
    "callbacks.checkpoint.every_n_steps=4", "callbacks.sample_generation.max_new_tokens=4", "~callbacks.plots",
    "tokenizer=bpe", "tokenizer.vocab_size=280",
)  # fmt: skip


def test_a_run_is_resumed_and_measured_with_kept_tokens_as_with_those_in_memory(large, monkeypatch):
    Path("a.txt").write_text(STORY * 60)
    words = ["train", "data=text", "data.path=a.txt", "data.cache_dir=kept", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(documents_in_files, "SMALL", 2**24)
        assert main([*words, "output_dir=memory"]) == 0
        assert not Path("kept").exists()
    assert main([*words, "output_dir=parts", "trainer.max_steps=8"]) == 0
    assert main(["train", "resume=parts", "trainer.max_steps=12", "data.cache_dir=elsewhere"]) == 0
    losses = [RunFolder(Path(name)).rows[-1]["val/loss"] for name in ("memory", "parts")]
    assert losses[0] == losses[1]
    assert list(Path("kept").rglob("*.bin")) and list(Path("elsewhere").rglob("*.bin"))
    assert main(["evaluate", "format=json", "checkpoint=parts", "data.cache_dir=kept"]) == 0
