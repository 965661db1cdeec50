"""data=shards: windows over tokens on disk, of our own shards and of other programs'."""

import json
import os
import pickle
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from firstlight.cli import main
from firstlight.data import remembered
from firstlight.data.order import BookOrder, SeededOrder
from firstlight.data.shards import facts
from firstlight.data.shards.data import ShardsData
from firstlight.data.shards.documents import DocumentStarts
from firstlight.data.shards.mixture import Mixture, shares
from firstlight.data.shards.shard import Shard, header, opened
from firstlight.data.shards.windows import DocumentWindows, ShardTokens, ShardWindows
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.windows import TensorWindows
from firstlight.runs.run_folder import RunFolder

END = 256


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_shard(name, ids, *, dtype="<u2", with_header=True):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    content = np.asarray(ids, dtype=dtype).tobytes()
    Path(name).write_bytes((header(dtype, len(ids)) if with_header else b"") + content)


def documents(n, seed=0, longest=60):
    """Ids of documents, each of which begins with the end of text."""
    rng = np.random.default_rng(seed)
    return [np.r_[END, rng.integers(0, 256, rng.integers(1, longest))] for _ in range(n)]


def shards_of(parts, dtype="<u2"):
    for number, ids in enumerate(parts):
        write_shard(f"s/train_{number}.bin", ids, dtype=dtype)
    return [opened(Path(f"s/train_{number}.bin")) for number in range(len(parts))]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder of the tokens of 300 documents, prepared once for all tests."""
    folder = tmp_path_factory.mktemp("prepared")
    lines = [
        json.dumps({"text": f"Document {i}: " + "the lamplighter walks. " * (i % 7 + 1)})
        for i in range(300)
    ]
    (folder / "a.jsonl").write_text("\n".join(lines))
    words = ["tokenizer=bytes", "shard_tokens=4000", "workers=1"]
    where = [f"data.path={folder}/a.jsonl", f"out={folder}/out"]
    assert main(["prepare", "data=text", *words, *where]) == 0
    return folder / "out"


def data_of(path, *, order=None, tokenizer=None, **settings):
    data = ShardsData(
        path=path if isinstance(path, list) else str(path),
        tokenizer=tokenizer or BytesTokenizer(),
        order=order or SeededOrder(seed=1),
        **{"context_length": 16, "batch_size": 8, **settings},
    )
    data.setup()
    return data


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize("stride", [1, 3, 16])
def test_windows_on_disk_are_those_in_memory_across_files_and_documents(dtype, stride):
    ids = np.concatenate(documents(20))
    on_disk = ShardTokens(shards_of(np.split(ids, [7, 8, 300]), dtype))
    size = {"context_length": 16, "stride": stride}
    ours = ShardWindows(on_disk, **size)
    expected = TensorWindows(torch.from_numpy(ids.astype(np.int32)), **size)
    assert len(ours) == len(expected) and ours.n_rest == expected.n_rest
    index = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0))
    for batch in [index, ours.rest_index, index[:1]]:
        for one, other in zip(ours[batch], expected[batch], strict=True):
            assert torch.equal(one, other) and one.dtype == torch.int64
    assert np.array_equal(np.concatenate(list(ours.chunks())), ids)
    assert len(ours.without_overlap()) == len(expected.without_overlap())


@pytest.mark.parametrize("stride", [1, 5, 16])
@pytest.mark.parametrize("stored", [True, False])
def test_without_crossing_each_window_is_within_one_document(stride, stored):
    parts = [documents(n, seed=n) for n in (150, 1, 90)]
    shards = shards_of([np.concatenate(part) for part in parts])
    expected = []
    for shard, part in zip(shards, parts, strict=True):
        lengths = [len(document) for document in part]
        if stored:
            starts = np.cumsum([0, *lengths[:-1]]).astype("<i8")
            starts.tofile(shard.starts_file)
        for number, document in enumerate(part):
            # The end of text that begins the next document is the last target of this one.
            whole = document if number + 1 == len(part) else np.r_[document, END]
            for start in range(0, len(whole) - 16, stride):
                expected.append(whole[start : start + 17])
    starts = [DocumentStarts(shard, END) for shard in shards]
    windows = DocumentWindows(
        ShardTokens(shards), context_length=16, stride=stride, documents=starts
    )
    windows = pickle.loads(pickle.dumps(windows))  # as it goes to a worker
    assert len(windows) == len(expected) > 0
    inputs, targets = windows[torch.arange(len(windows))]
    assert np.array_equal(inputs.numpy(), np.array(expected)[:, :-1])
    assert np.array_equal(targets.numpy(), np.array(expected)[:, 1:])


def test_a_part_of_a_document_at_the_start_of_a_foreign_shard_is_one_of_its_own():
    (shard,) = shards_of([[5, 6, 7, END, 1, 2, END, 3]])
    assert DocumentStarts(shard, END).starts.tolist() == [0, 3, 6]


def test_the_first_batch_of_windows_beyond_memory_takes_next_to_none():
    n_tokens = 10**10
    file = Path("train.bin")
    with file.open("wb") as stream:
        stream.truncate(2 * n_tokens)  # a hole
    windows = ShardWindows(
        ShardTokens([Shard(file, "<u2", 0, n_tokens)]), context_length=16, stride=1
    )
    endless = SeededOrder(seed=1).train_batches(
        len(windows), batch_size=64, shuffle=True, drop_last=True, start=10**8
    )
    inputs, targets = windows[next(endless)]
    assert inputs.shape == targets.shape == (64, 16) and not inputs.any()


def test_batches_of_a_run_are_a_function_of_seed_and_number_with_and_without_workers(prepared):
    def read(start, stop, **settings):
        data = data_of(prepared, **settings)
        return [inputs for inputs, _ in data.train_batches(start=start, stop=stop)]

    n = data_of(prepared).batches_per_epoch
    whole = read(0, 2 * n)
    for again in (read(n - 3, n + 3), read(n - 3, n + 3, num_workers=2)):
        assert all(map(torch.equal, again, whole[n - 3 : n + 3]))
    assert not torch.equal(torch.cat(whole[:n]), torch.cat(whole[n:]))


def foreign(kind):
    train, val = np.concatenate(documents(60)), np.concatenate(documents(20, seed=1))
    if kind == "nanoGPT":
        write_shard("f/train.bin", train, with_header=False)
        write_shard("f/val.bin", val, with_header=False)
    else:
        for number, part in enumerate(np.array_split(train, 3)):
            write_shard(f"f/fineweb_train_{number:06d}.bin", part)
        write_shard("f/fineweb_val_000000.bin", val)
    return train, val


@pytest.mark.parametrize("kind", ["nanoGPT", "llm.c"])
def test_shards_of_other_programs_train(kind):
    train, val = foreign(kind)
    data = data_of("f")
    assert np.array_equal(np.concatenate(list(data.windows["train"].chunks())), train)
    assert np.array_equal(np.concatenate(list(data.windows["val"].chunks())), val)
    assert "without an index" in data.summary()


def test_an_epoch_of_a_mixture_has_the_shares_that_were_asked_for():
    assert shares(10, [1, 1, 1]) == [4, 3, 3] and shares(7, [0.5, 0.5]) == [4, 3]
    counts, weights = [100, 10, 1000], [0.5, 0.3, 0.2]
    mixture = Mixture(counts, weights, seed=1)
    assert mixture.drawn == [555, 333, 222]
    epochs = [mixture.windows(np.arange(1110), epoch) for epoch in range(5)]
    for epoch in epochs:
        assert np.histogram(epoch, [0, 100, 110, 1110])[0].tolist() == mixture.drawn
    # Every window of a source comes before one of them comes again, across epochs.
    for first, count in ((0, 100), (100, 10), (110, 1000)):
        drawn = np.concatenate([e[(e >= first) & (e < first + count)] for e in epochs])
        for start in range(0, len(drawn) - count + 1, count):
            assert len(np.unique(drawn[start : start + count])) == count
    shuffled = np.random.default_rng(0).permutation(1110)
    assert np.array_equal(mixture.windows(shuffled, 3), epochs[3][shuffled])


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_sources_are_mixed_by_weight_and_resumed_in_the_middle(prepared, cross, drop_last):
    write_shard("f/train.bin", np.concatenate([np.r_[END, [7] * 40]] * 50), with_header=False)
    write_shard("f/val.bin", np.r_[END, [7] * 40], with_header=False)

    def read(start, stop):
        data = data_of(
            [str(prepared), "f"], weights=[1, 3], cross_documents=cross, drop_last=drop_last
        )
        data = pickle.loads(pickle.dumps(data)) if start else data
        batches = data.train_batches(start=start, stop=stop)
        return data, [inputs for inputs, _ in batches]

    data, _ = read(0, 1)
    n = data.batches_per_epoch
    _, whole = read(0, 2 * n + 2)
    is_seven = (torch.cat(whole[:n]) == 7).sum(1) > 8
    assert abs(is_seven.float().mean() - 0.75) < 0.02
    for start in (1, n - 1, n, n + 2):
        assert all(map(torch.equal, read(start, 2 * n)[1], whole[start : 2 * n]))


def wrong_version():
    foreign("llm.c")
    content = bytearray(Path("f/fineweb_val_000000.bin").read_bytes())
    content[4] = 9
    Path("f/fineweb_val_000000.bin").write_bytes(content)


def change(name, *, cut=0):
    content = bytearray(Path("out", name).read_bytes())
    content[-3] ^= 1
    Path("out", name).write_bytes(content[: len(content) - cut])


def learned_from_other_words():
    tokenizer = BPETokenizer(vocab_size=300)
    tokenizer.fit(["other words"])
    return tokenizer


def remake_index(**changes):
    index = json.loads(Path("out/index.json").read_text())
    Path("out/index.json").write_text(json.dumps(index | changes))


REFUSED = {
    "no such folder": (lambda: shutil.rmtree("out"), {}, "no such folder"),
    "nothing in it": (lambda: [f.unlink() for f in Path("out").iterdir()], {}, "has no index.json"),
    "not complete": (
        lambda: Path("out/index.json").rename("out/unfinished.json"),
        {},
        "was interrupted; give its command again",
    ),
    "a shard cut short": (lambda: change("train_000001.bin", cut=2), {}, "is cut short"),
    "a shard that has changed": (lambda: change("val_000000.bin"), {}, "have the checksum"),
    "a shard that is gone": (lambda: Path("out/train_000001.bin").unlink(), {}, "no such file"),
    "another shard": (
        lambda: shutil.copy("out/train_000001.bin", "out/train_000002.bin"),
        {},
        "index.json says",
    ),
    "starts that have changed": (
        lambda: change("train_000001.idx"),
        {"cross_documents": False},
        "checksum of the index",
    ),
    "an index that has changed": (lambda: remake_index(dtype="<u4"), {}, "have its own checksum"),
    "another tokenizer": (
        lambda: None,
        {"tokenizer": learned_from_other_words()},
        "was prepared with the tokenizer bytes, not bpe: leave tokenizer=... out",
    ),
    "a tokenizer that has changed": (lambda: change("tokenizer.json"), {}, "tokenizer.json"),
    "a learned tokenizer for foreign shards": (
        lambda: (foreign("llm.c"), shutil.rmtree("out"), shutil.move("f", "out")),
        {"tokenizer": BPETokenizer(vocab_size=300)},
        "does not say which tokenizer its tokens are of: give it, e.g. tokenizer=gpt2",
    ),
    "ids above the vocabulary": (
        lambda: (
            shutil.rmtree("out"),
            write_shard("out/train.bin", [1, 2, 50000] * 50),
            write_shard("out/val.bin", [1, 2] * 50),
        ),
        {},
        "has the id 50,000, and the tokenizer bytes has 257",
    ),
    "no validation": (
        lambda: (shutil.rmtree("out"), write_shard("out/train.bin", [1, 2] * 50)),
        {},
        "has no shards of the split val",
    ),
    "a name without a split": (
        lambda: (shutil.rmtree("out"), write_shard("out/a.bin", [1, 2] * 50)),
        {},
        "does not say whether it is for training or validation",
    ),
    "another version": (
        lambda: (wrong_version(), shutil.rmtree("out"), shutil.move("f", "out")),
        {},
        "has version 9 of this format; 1 can be read",
    ),
    "an odd number of bytes": (
        lambda: (
            shutil.rmtree("out"),
            Path("out").mkdir(),
            Path("out/val.bin").write_bytes(b"abc"),
        ),
        {},
        "is not a file of tokens",
    ),
    "windows too long": (lambda: None, {"context_length": 2**16}, "too few for one window"),
    "documents too short": (
        lambda: None,
        {"context_length": 400, "cross_documents": False},
        "no document of 400 \\+ 1",
    ),
    "weights for other sources": (lambda: None, {"weights": [1.0, 2.0]}, "one number for each"),
    "weights without a seed": (
        lambda: None,
        {"weights": [1.0], "order": BookOrder()},
        "an order that follows from the seed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case, prepared):
    spoil, settings, expected = REFUSED[case]
    shutil.copytree(prepared, "out")
    spoil()
    with pytest.raises(ValueError, match=expected) as told:
        data_of("out", **settings)
    assert "\n" not in str(told.value)


def test_all_of_a_file_is_read_once_and_again_if_it_has_changed(prepared, monkeypatch):
    shutil.copytree(prepared, "out")
    for file in Path("out").iterdir():
        os.utime(file, (10**9, 10**9))
    monkeypatch.setattr(remembered, "SETTLED", 0)  # that change of time has just been made
    read = []
    whole = facts._read
    monkeypatch.setattr(
        facts, "_read", lambda shard: (read.append(shard.file.name), whole(shard))[1]
    )
    first = data_of("out").fingerprint()
    assert len(read) == len(list(Path("out").glob("*.bin")))
    read.clear()
    assert data_of("out").fingerprint() == first and read == []
    change("train_000001.bin")
    with pytest.raises(ValueError, match="have the checksum"):
        data_of("out")
    assert read == ["train_000001.bin"]


TINY = (
    "model.context_length=16", "model.emb_dim=16", "model.n_heads=2", "model.n_layers=1", "data.batch_size=8",
    "scheduler=constant", "trainer.max_steps=12", "trainer.eval_every_n_steps=6", "trainer.accelerator=cpu",
    "callbacks.checkpoint.every_n_steps=4", "callbacks.sample_generation.max_new_tokens=4", "~callbacks.plots",
)  # fmt: skip


def test_a_run_takes_the_tokenizer_of_the_shards_and_is_measured_resumed_and_sampled(
    prepared, capsys
):
    shutil.copytree(prepared, "out")
    words = ["train", "data=shards", "data.path=out", *TINY]
    assert main([*words, "output_dir=whole"]) == 0
    assert "bytes tokenizer, 257 ids" in capsys.readouterr().out
    assert main([*words, "output_dir=parts", "trainer.max_steps=8"]) == 0
    assert main(["train", "resume=parts", "trainer.max_steps=12"]) == 0
    rows = [RunFolder(Path(name)).rows[-1]["val/loss"] for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    capsys.readouterr()
    assert main(["evaluate", "format=json", "checkpoint=whole", "accelerator=cpu"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["val/loss"] == pytest.approx(float(rows[0]), rel=1e-6)
    assert (
        main(["evaluate", "format=json", "checkpoint=whole", "split=all", "accelerator=cpu"]) == 0
    )
    assert main(["generate", "checkpoint=whole", "prompt=The", "max_new_tokens=3"]) == 0
    assert main(["compare", "whole", "parts", "accelerator=cpu", "out=null"]) == 0
    # Other shards in their place are noticed.
    shutil.rmtree("out")
    foreign("nanoGPT")
    shutil.move("f", "out")
    capsys.readouterr()
    assert main(["evaluate", "format=json", "checkpoint=whole", "accelerator=cpu"]) == 2
    assert "this is not the text that" in capsys.readouterr().err


def test_a_tokenizer_that_contradicts_the_shards_is_refused(prepared, capsys):
    words = ["train", "data=shards", f"data.path={prepared}", *TINY]
    assert main([*words, "tokenizer=bpe"]) == 2
    told = capsys.readouterr().err
    assert "tokenizer=bpe: the data was prepared with the tokenizer bytes, vocab_size=257" in told
    assert main([*words, "data.path=nowhere"]) == 2
    assert "data: path (nowhere): no such folder" in capsys.readouterr().err


def test_epochs_of_a_mixture_never_end(prepared):
    data = data_of([str(prepared), str(prepared)], weights=[1, 1])
    n = data.batches_per_epoch
    assert len(list(islice(data.train_order(5 * n - 1), 3))) == 3
