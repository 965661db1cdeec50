"""`firstlight prepare`: what stands in the folder, whatever interrupts the work, and what is refused."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from at_each_operation import DONE, ends_of

from firstlight.cli import main
from firstlight.data.documents import documents_in, stream_text
from firstlight.data.shards.folder import find_prepared
from firstlight.prepare.documents import Ratios, hashed_documents
from firstlight.prepare.sample import sampled

END = 256


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def texts(n=300):
    return [f"Document {i}: " + "the lamplighter walks. " * (i % 7 + 1) for i in range(n)]


def write_jsonl(name, documents):
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def prepare(*words, out="out", shard_tokens=4000):
    return main(
        ["prepare", "data=text", "tokenizer=bytes", f"out={out}", f"shard_tokens={shard_tokens}"]
        + (["workers=2"] if not any(word.startswith("workers") for word in words) else [])
        + list(words)
    )


def files_of(folder):
    found = sorted(Path(folder).glob("[!.]*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def documents_of(folder, split):
    """Read the shards as other programs do, by numpy alone; return the documents."""
    tokens = []
    for file in sorted(Path(folder).glob(f"{split}_*.bin")):
        header = np.fromfile(file, dtype=np.int32, count=256)
        assert header[0] == 20240520 and header[1] == 1
        content = np.fromfile(file, dtype=np.uint16, offset=1024)
        assert len(content) == header[2]
        starts = np.fromfile(file.with_suffix(".idx"), dtype=np.int64)
        assert np.array_equal(starts, np.flatnonzero(content == END))
        tokens.append(content)
    ids = np.concatenate(tokens)
    parts = np.split(ids, np.flatnonzero(ids == END))[1:]
    return [bytes(part[1:].astype(np.uint8)).decode() for part in parts]


def all_documents_of(folder):
    return [text for split in ("train", "val", "test") for text in documents_of(folder, split)]


def test_other_programs_read_the_documents_split_by_their_hashes(capsys):
    documents = texts()
    write_jsonl("a.jsonl", documents)
    assert prepare("data.path=a.jsonl") == 0
    told = capsys.readouterr().out
    train, val = documents_of("out", "train"), documents_of("out", "val")
    assert sorted(all_documents_of("out")) == sorted(documents)
    assert 0.83 < len(train) / 300 < 0.97
    assert 1 < len(val) < 30 and 1 < len(documents_of("out", "test")) < 30
    assert f"{len(train):,} documents" in told and "train data=shards data.path=out" in told
    order = {text: number for number, text in enumerate(documents)}
    assert [order[text] for text in train] == sorted(order[text] for text in train)
    # The split of a document does not depend on the others.
    write_jsonl("b.jsonl", [*texts(40)[::-1], *texts()[200:]])
    assert prepare("data.path=b.jsonl", out="other") == 0
    assert set(documents_of("other", "train")) <= set(train)
    assert set(documents_of("other", "val")) <= set(val)


def test_any_number_of_processes_and_any_kind_of_file_make_the_same_shards():
    write_jsonl("a.jsonl", texts())
    with gzip.open("b.jsonl.gz", "wt") as stream:
        stream.write(Path("a.jsonl").read_text())
    assert prepare("data.path=a.jsonl", "workers=1") == 0
    assert prepare("data.path=b.jsonl.gz", "workers=3", out="other") == 0
    one, other = files_of("out"), files_of("other")
    assert {**one, "index.json": ""} == {**other, "index.json": ""} and len(one) > 10


def test_a_finished_folder_is_checked_and_left_alone(capsys):
    write_jsonl("a.jsonl", texts())
    assert prepare("data.path=a.jsonl") == 0
    before = {file: file.stat().st_mtime_ns for file in Path("out").glob("*.bin")}
    index = Path("out/index.json").read_bytes()
    Path("a.jsonl").rename("moved.jsonl")  # the place may change, the documents may not
    assert prepare("data.path=moved.jsonl") == 0
    assert {file: file.stat().st_mtime_ns for file in Path("out").glob("*.bin")} == before
    assert Path("out/index.json").read_bytes() == index


@pytest.mark.parametrize("name", ["train_000001.bin", "train_000001.idx", "val_000000.bin"])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_shard_is_made_again_alone(name, how, capsys):
    write_jsonl("a.jsonl", texts())
    assert prepare("data.path=a.jsonl") == 0
    whole = files_of("out")
    other = Path("out/train_000002.bin")
    stamp, damaged = other.stat().st_mtime_ns, Path("out", name)
    if how == "missing":
        damaged.unlink()
    else:
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
    capsys.readouterr()
    assert prepare("data.path=a.jsonl") == 0
    assert "is missing or damaged: it is made again" in capsys.readouterr().err
    assert files_of("out") == whole and other.stat().st_mtime_ns == stamp


CHANGES = {
    "a document in the middle": lambda texts: [*texts[:150], "another one", *texts[151:]],
    "a document more": lambda texts: [*texts, *("new " * 20, "newer " * 20, "newest " * 20)],
    "documents less": lambda texts: texts[:200],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_has_changed_is_never_taken_for_what_it_was(change, capsys):
    write_jsonl("a.jsonl", texts())
    assert prepare("data.path=a.jsonl") == 0
    whole = files_of("out")
    write_jsonl("a.jsonl", CHANGES[change](texts()))
    capsys.readouterr()
    assert prepare("data.path=a.jsonl") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the source has changed since it was prepared" in line and "give another out" in line
    assert files_of("out") == whole


def is_complete(folder):
    try:
        find_prepared(folder).check()
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_whatever_a_file_operation_is_cut_off_at_the_same_command_makes_the_same_bytes(how):
    write_jsonl("a.jsonl", texts(150))
    assert prepare("data.path=a.jsonl", "workers=1", out="whole") == 0
    whole = files_of("whole")

    def work():
        assert prepare("data.path=a.jsonl", "workers=1") == 0

    codes = []
    # Each continues what the one before has left.
    for code in ends_of(work, "out", how, stride=7):
        codes.append(code)
        if is_complete("out"):
            assert {**files_of("out"), "unfinished.json": ""} == {**whole, "unfinished.json": ""}
    assert len(codes) > 2 and codes[-1] == DONE and files_of("out") == whole


WORDS = ["prepare", "data=text", "tokenizer=bytes", "out=out", "data.path=a.jsonl", "workers=2"]


@pytest.mark.slow
def test_killed_at_any_time_the_same_command_makes_the_same_bytes():
    write_jsonl("a.jsonl", texts(2000))
    assert prepare("data.path=a.jsonl", out="whole") == 0
    words = [sys.executable, "-m", "firstlight", *WORDS, "shard_tokens=4000"]
    for number in range(20):
        process = subprocess.Popen(words)
        while process.poll() is None and len(list(Path("out").glob("*.bin"))) <= number:
            time.sleep(0.002)
        process.kill()
        process.wait()
        if Path("out/index.json").exists():
            break
    assert prepare("data.path=a.jsonl") == 0
    assert files_of("out") == files_of("whole")


def test_a_full_disk_ends_in_one_line_and_the_next_command_completes_the_work(monkeypatch, capsys):
    write_jsonl("a.jsonl", texts())
    assert prepare("data.path=a.jsonl", out="whole") == 0
    calls = []

    def full(stream):
        calls.append(stream)
        if len(calls) == 5:
            raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("firstlight.data.shards.writing.sync", full)
        capsys.readouterr()
        assert prepare("data.path=a.jsonl") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "out (out): cannot be written: No space left on device" in line
    assert not list(Path("out").glob(".*.tmp")) and not Path("out/index.json").exists()
    assert prepare("data.path=a.jsonl") == 0
    assert files_of("out") == files_of("whole")


def test_a_plain_text_is_cut_at_its_separator_and_where_a_document_is_too_long(capsys):
    documents = texts(100)
    long = "word " * 3000
    Path("a.txt").write_text("<|endoftext|>".join([*documents, long]))
    assert prepare("data.path=a.txt", "data.special_tokens=true", "longest_document=1000") == 0
    found = all_documents_of("out")
    assert set(documents) <= set(found)
    parts = [part for part in found if part.strip().startswith("word")]
    assert sum(map(len, parts)) == len(long) and max(map(len, parts)) <= 1000
    # Without a separator it is one document, cut by its length alone.
    Path("b.txt").write_text("".join(texts(400)))
    assert prepare("data.path=b.txt", "longest_document=1000", out="b") == 0
    assert sum(map(len, all_documents_of("b"))) == len(Path("b.txt").read_text())


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_where_a_text_is_cut_does_not_depend_on_the_blocks_in_which_it_is_read(size):
    text = "<END>".join([*texts(60), "x" * 5000 + "<EN" + "y z " * 2000, "", "end"])
    blocks = (text[i : i + size] for i in range(0, len(text), size))
    cut = list(documents_in(blocks, "<END>", 1000))
    assert cut == list(documents_in([text], "<END>", 1000))
    assert "".join(cut) == text.replace("<END>", "") and max(map(len, cut)) <= 1000


@pytest.mark.parametrize("block", [1, 3, 2**20])
def test_a_text_is_streamed_as_it_is_read_whole(block, monkeypatch):
    monkeypatch.setattr("firstlight.data.documents.BLOCK", block)
    Path("a.txt").write_bytes("\ufeffZo\u00eb\r\nsaid\r\u4f60\u597d\U0001f600\n".encode())
    assert "".join(stream_text(Path("a.txt"))) == "Zo\u00eb\nsaid\n\u4f60\u597d\U0001f600\n"
    Path("b.txt").write_bytes(b"abcdefg\xc3\xa9h\xffij")
    with pytest.raises(ValueError, match=r"b\.txt\) is not UTF-8 text: byte 10 is 0xff"):
        list(stream_text(Path("b.txt")))
    Path("c.txt").write_bytes("\ufeffcaf\u00e9".encode()[:-1])
    with pytest.raises(ValueError, match="byte 6 is 0xc3; it ends inside a character"):
        list(stream_text(Path("c.txt")))


def refusals():
    return {
        "a source that is not there": (["data.path=no.jsonl"], "no such file"),
        "a source cut inside a character": (["data.path=cut.txt"], "ends inside a character"),
        "a line that is not JSON": (["data.path=bad.jsonl"], "line 2 is not JSON"),
        "another field": (["data.path=a.jsonl", "data.field=body"], "has no field 'body'"),
        "a source of nothing": (["data.path=empty.jsonl"], "has no text in it"),
        "too few documents": (["data.path=one.txt"], "the val split gets none of 1 documents"),
        "too few for three splits": (["data.path=one.txt"], "give data.test_ratio=0, which"),
        "a folder of something else": (
            ["data.path=a.jsonl", "out=."],
            "was not made by firstlight",
        ),
        "shards too short": (["data.path=a.jsonl", "shard_tokens=5"], "expected int >= 1000"),
        "other settings": (
            ["data.path=a.jsonl", "out=made", "longest_document=5000"],
            "longest_doc",
        ),
        "another default": (
            ["data.path=a.jsonl", "out=made", "data.test_ratio=0"],
            "data.test_ratio=null, not 0; give data.test_ratio=null again, another out=",
        ),
        "another tokenizer": (["data.path=a.jsonl", "out=made", "tokenizer=bpe"], "tokenizer."),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_cannot_be_prepared_is_refused_in_one_line(case, capsys):
    write_jsonl("a.jsonl", texts(60))
    assert prepare("data.path=a.jsonl", out="made") == 0
    Path("cut.txt").write_bytes("caf\u00e9".encode()[:-1])
    Path("bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    Path("empty.jsonl").touch()
    Path("one.txt").write_text("one document")
    words, expected = refusals()[case]
    before = files_of("made")
    capsys.readouterr()
    assert prepare(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line and files_of("made") == before
    assert not Path("out/index.json").exists()


def test_a_vocabulary_is_learned_from_the_training_documents_and_kept():
    write_jsonl("a.jsonl", texts())
    words = ["data.path=a.jsonl", "tokenizer=bpe", "tokenizer.vocab_size=300"]
    assert prepare(*words) == 0
    whole = files_of("out")
    Path("out/train_000001.bin").unlink()
    assert prepare(*words) == 0
    assert files_of("out") == whole
    state = json.loads(Path("out/tokenizer.json").read_text())
    assert len(state["tokens"]) == 299 and state["vocab_size"] == 300


def test_a_sample_is_bounded_even_and_always_the_same():
    documents = list(hashed_documents(texts(2000), Ratios(0.9, 0.0)))
    sample = sampled(documents, most=20_000)
    assert 15_000 < sum(map(len, sample)) <= 20_000
    assert sample == sampled(documents, most=20_000)
    in_train = [d.text for d in documents if d.split == "train"]
    places = [in_train.index(text) / len(in_train) for text in sample]
    assert places == sorted(places) and 0.35 < np.mean(places) < 0.65
    assert sampled(documents, most=10**9) == in_train
