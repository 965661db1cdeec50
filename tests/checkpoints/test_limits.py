"""No file makes us compute or allocate out of proportion to its size."""

import collections
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from foreign_models import SIZES, book_state, bytes_tokenizer, write_book
from spoil import within

from firstlight.checkpoints.checkpoint import Checkpoint, load_plain, load_weights
from firstlight.checkpoints.limits import MAX_TENSORS, FileError, check_tensors, check_torch_file
from firstlight.checkpoints.model_file import read_model_file
from firstlight.commands.description import describe_checkpoint
from firstlight.data.files import read_limited
from firstlight.data.tokenizers import base
from firstlight.data.tokenizers.base import StoredTokenizer
from firstlight.data.tokenizers.huggingface import byte_of_character, state_of_vocabulary
from firstlight.errors import ConfigError
from firstlight.foreign.huggingface import _headers
from firstlight.sources import load_checkpoint
from firstlight.verify.differences import _read

MATRIX = torch.ones(257, 64)


def refusal(file):
    with within(seconds=10), pytest.raises(ConfigError) as caught:
        load_checkpoint(file).build_model()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 400
    return line


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        pytest.param(
            torch.ones(1).expand(10**12, 64), "larger than the file", id="one number as a matrix"
        ),
        pytest.param(
            torch.empty(257, 64, device="meta"), "not a plain tensor", id="without content"
        ),
        pytest.param(MATRIX.to_sparse(), "not a plain tensor", id="sparse"),
        pytest.param(
            MATRIX.to(torch.int64),
            "does not hold floating-point numbers (torch.int64)",
            id="whole numbers",
        ),
        pytest.param(
            MATRIX.to(torch.float8_e4m3fn), "does not hold floating-point numbers", id="8 bits"
        ),
        pytest.param(
            MATRIX * 1j, "does not hold floating-point numbers (torch.complex64)", id="complex"
        ),
        pytest.param(MATRIX * torch.nan, "not finite", id="nan"),
        pytest.param(torch.tensor(1.0), "not a whole model of the book", id="one number"),
        pytest.param(torch.ones(0, 64), "vocab_size: expected int > 0", id="empty"),
        pytest.param("text", "something else than tensors", id="text"),
        pytest.param([MATRIX], "something else than tensors", id="a list"),
    ],
)
def test_a_weight_that_is_none_is_refused(tmp_path, weight, reason):
    torch.save(book_state() | {"tok_emb.weight": weight}, tmp_path / "model.pth")
    assert reason in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_mixed_precision_become_one(tmp_path, dtype):
    torch.save(book_state() | {"tok_emb.weight": MATRIX.to(dtype)}, tmp_path / "model.pth")
    model = load_checkpoint(tmp_path / "model.pth").build_model()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.zeros(1, 2, dtype=torch.long)).isfinite().all()


def test_one_tensor_under_many_names_is_refused(tmp_path):
    torch.save(
        book_state() | {f"trf_blocks.{n}.ff.x": MATRIX for n in range(40)}, tmp_path / "model.pth"
    )
    assert "larger than the file" in refusal(tmp_path / "model.pth")


def test_a_head_that_is_the_embedding_counts_once():
    check_tensors({"tok_emb.weight": MATRIX, "out_head.weight": MATRIX}, MATRIX.numel() * 4)
    with pytest.raises(FileError, match="larger than the file"):
        check_tensors({"a": MATRIX, "b": MATRIX, "c": MATRIX}, MATRIX.numel() * 4)


@pytest.mark.parametrize("name", [3, (1,), None])
def test_a_weight_without_a_name_is_refused(name):
    with pytest.raises(FileError, match="by name"):
        check_tensors({name: MATRIX}, 10**9)


def test_a_name_is_shown_in_characters_that_can_be_shown(tmp_path):
    torch.save(book_state() | {"a\n\x1b[2J" + "x" * 10_000: torch.ones(1)}, tmp_path / "model.pth")
    assert r"a\n\x1b[2Jxxx" in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "size",
    [2**31, 10**18, 2**63 - 1, 2**70, 10**400],
    ids=["2e9", "1e18", "9e18", "2**70", "1e400"],
)
@pytest.mark.parametrize("key", ["vocab_size", "context_length", "emb_dim", "n_layers"])
def test_a_model_that_no_weights_are_for_is_refused(key, size):
    section = {
        "_target_": "firstlight.model.gpt.GPT",
        "_partial_": True,
        **SIZES,
        "n_heads": 1,
        key: size,
    }
    checkpoint = Checkpoint(Path("model.ckpt"), book_state(), {"model": section}, None, None)
    with within(seconds=10), pytest.raises(ConfigError):
        checkpoint.build_model()


@pytest.mark.parametrize("layer", [9, 999_999_999, 10**30])
def test_a_book_of_endless_layers_is_refused(tmp_path, layer):
    torch.save(
        book_state() | {f"trf_blocks.{layer}.norm1.scale": torch.ones(64)}, tmp_path / "model.pth"
    )
    refusal(tmp_path / "model.pth")


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_few_bytes_do_not_ask_for_gigabytes(tmp_path):
    torch.save({"a": Call(bytearray, 100 * 2**30)}, tmp_path / "model.pth")
    assert "holds code (__builtin__.bytearray)" in refusal(tmp_path / "model.pth")


def test_lists_that_contain_each_other_without_end_are_refused(tmp_path):
    laughs = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    torch.save(
        {"model_state_dict": book_state() | {"tok_emb.weight": laughs}}, tmp_path / "model.pth"
    )
    assert "something else than tensors" in refusal(tmp_path / "model.pth")


def test_the_format_of_before_2020_is_refused_for_want_of_checksums(tmp_path):
    torch.save(book_state(), tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    assert "format of before 2020, which has no checksums: torch.save it again" in refusal(
        tmp_path / "model.pth"
    )


def test_a_file_that_was_saved_without_checksums_is_refused_as_such(tmp_path):
    with torch.utils.serialization.config.patch({"save.compute_crc32": False}):
        torch.save(book_state(), tmp_path / "model.pth")
    assert "saved without checksums: torch.save it again" in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"PK\3\4", b"\x89PNG\r\n", b"not a checkpoint\n" * 100, bytes(10**6)]
)
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    assert "damaged, or not a checkpoint" in refusal(tmp_path / "model.pth")


def test_a_compressed_file_is_refused_before_it_unfolds(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    assert "compressed" in refusal(tmp_path / "model.pth")


def test_parts_that_overlap_are_refused(tmp_path):
    """Every entry of the directory points to the same large part: a small file, and hours to read
    it all.
    """
    file = write_book(tmp_path / "model.pth")
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        start, largest = (
            archive.start_dir,
            max(archive.infolist(), key=lambda entry: entry.file_size),
        )
    directory, at = bytearray(content[start:]), 0
    while directory[at : at + 4] == b"PK\1\2":
        name, extra, comment = struct.unpack("<3H", directory[at + 28 : at + 34])
        directory[at + 16 : at + 28] = struct.pack(
            "<3I", largest.CRC, largest.file_size, largest.file_size
        )
        at += 46 + name + extra + comment
    file.write_bytes(content[:start] + directory)
    assert "overlap" in refusal(file)


def test_what_torch_saves_today_passes_the_check(tmp_path):
    saved = {
        "weights": book_state(),
        "state": [collections.OrderedDict(a=1), {2}, torch.float16, torch.Size([1]), b"x"],
    }
    torch.save(saved, tmp_path / "state.pt")
    check_torch_file(tmp_path / "state.pt")
    assert load_plain(tmp_path / "state.pt")["state"] == saved["state"]


def test_a_device_or_a_pipe_is_no_file_to_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with within(seconds=5), pytest.raises(OSError, match="not a regular file"):
            read_limited(file)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(100 * 2**30)  # a hole: nothing is written
    with within(seconds=5), pytest.raises(OSError, match="over 67,108,864 bytes"):
        read_limited(tmp_path / "huge.json")


def test_tokens_whose_merges_would_take_hours_are_refused():
    characters = {byte: character for character, byte in byte_of_character().items()}
    texts = [characters[byte] for byte in range(256)] + ["a" * 2**n for n in range(1, 21)]
    vocab = {text: rank for rank, text in enumerate([*texts, "<|endoftext|>"])}
    with within(seconds=10), pytest.raises(ValueError, match="its tokens are too long"):
        state_of_vocabulary(vocab, [])


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "a*", "(", "(a{1000}){1000}", r"\p{L}{1,100000}", "(?:" * 5000]
)
def test_a_pattern_that_loses_text_is_refused(pattern):
    state = bytes_tokenizer().state_dict()
    with within(seconds=10), pytest.raises(ValueError, match=r"pattern|[Rr]egex|Parsing"):
        StoredTokenizer({**state, "pattern": pattern})


SQUARE = r"(?:[a-zA-Z ]+)+(?=\x00)|[\s\S]"
"""A pattern that looks for what is not there behind every letter, and cuts into characters all the
same."""


@pytest.mark.parametrize("encode", ["encode", "encode_documents"])
def test_a_pattern_that_takes_the_square_of_the_length_is_left_after_a_time_in_proportion_to_it(
    encode, monkeypatch
):
    monkeypatch.setattr(base, "SECONDS", 0.1)
    monkeypatch.setattr(base, "SECONDS_PER_CHARACTER", 1e-5)
    tokenizer = StoredTokenizer({**bytes_tokenizer().state_dict(), "pattern": SQUARE})
    assert tokenizer.encode("The lamp") == list(b"The lamp")
    text = "ab " * 5000
    with (
        within(seconds=20),
        pytest.raises(ConfigError, match="takes too long for a text of 15,000 characters"),
    ):
        getattr(tokenizer, encode)(text if encode == "encode" else [text])


@pytest.mark.parametrize(
    "pattern",
    [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"\w+|\W+",
    ],
    ids=["GPT-4's", "GPT-2's as it was", "words"],
)
def test_the_pattern_of_an_honest_tokenizer_changes_no_token(pattern):
    text = "It's 12345 caf\u00e9s \u2014 \u4f60\u597d!\r\n\n  The lamps' light. " * 500
    tokenizer = StoredTokenizer({**bytes_tokenizer().state_dict(), "pattern": pattern})
    assert tokenizer.encode(text) == tokenizer.encoding.encode_ordinary(text)
    assert tokenizer.encode_documents([text]).tolist() == tokenizer.encoding.encode_ordinary(text)


def test_a_pattern_of_many_characters_is_refused():
    with pytest.raises(ValueError, match="the limit is 2,000"):
        StoredTokenizer({**bytes_tokenizer().state_dict(), "pattern": "a|" * 1000 + r"[\s\S]"})


def many_tensors(file, n, metadata=None):
    """A safetensors file of `n` empty tensors."""
    header = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(n)}
    content = json.dumps({"__metadata__": {"format": "pt", **(metadata or {})}, **header}).encode()
    file.write_bytes(struct.pack("<Q", len(content)) + content)


@pytest.mark.parametrize(
    "reader", [read_model_file, describe_checkpoint, load_checkpoint, _headers, _read]
)
def test_a_file_of_hundreds_of_thousands_of_tensors_is_refused(reader, tmp_path):
    file = tmp_path / "many.safetensors"
    many_tensors(file, 400_000)
    with (
        within(seconds=20),
        pytest.raises(ValueError, match="400,000 tensors, there may be 16,384"),
    ):
        reader(file)


def test_as_many_weights_as_there_may_be_are_compared_with_a_model_in_seconds(tiny_gpt):
    model = tiny_gpt()
    weights = {f"w{n}": torch.empty(0) for n in range(MAX_TENSORS)}
    with within(seconds=20), pytest.raises(ConfigError, match="the weights of another model"):
        load_weights(model, Checkpoint(Path("x"), weights, {}, None, None))


@pytest.mark.parametrize(
    "changed", [{"end_of_text": 255}, {"end_of_text": 2**70}, {"vocab_size": 10**12}]
)
def test_a_vocabulary_of_impossible_size_is_refused(changed):
    with within(seconds=10), pytest.raises(ValueError, match="must be"):
        StoredTokenizer(bytes_tokenizer().state_dict() | changed)
