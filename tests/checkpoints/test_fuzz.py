"""Whatever bytes a foreign file has, its reader says so in one line or loads a model: no traceback,
no hang, no flood.

That no bit of the data is changed is promised of what has checksums: `.pth` (CRC-32 of each part)
and TensorFlow's bundles (CRC-32C of each tensor). Hugging Face's safetensors have none.
"""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import book_state, write_book, write_huggingface, write_openai, write_qwen3
from spoil import everything, flips, hostile_json, within

from firstlight.data.tokenizers.huggingface import read_tokenizer
from firstlight.errors import ConfigError
from firstlight.foreign.huggingface import read_huggingface
from firstlight.foreign.openai import read_openai
from firstlight.foreign.tensorflow import TensorBundle
from firstlight.sources import load_checkpoint


def outcomes(file: Path, contents: Iterable[bytes], read: Callable[[], Any]) -> Counter[str]:
    """How often each way to spoil `file` was refused, and how often it was read all the same."""
    found: Counter[str] = Counter()
    for content in contents:
        file.write_bytes(content)
        with within(seconds=10):
            try:
                read()
                found["read"] += 1
            except ConfigError as error:
                line = str(error)
                assert line.isprintable() and len(line) < 700, line
                found["refused"] += 1
    return found


def without_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    return folder


def same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return weights.keys() == expected.keys() and all(
        torch.equal(weights[name], expected[name]) for name in weights
    )


def test_a_spoilt_file_of_the_book_is_refused_or_read_with_the_same_weights(tmp_path):
    file = write_book(tmp_path / "model.pth")
    expected = load_checkpoint(file).build_model().state_dict()

    def read():
        assert same(load_checkpoint(file).build_model().state_dict(), expected)

    found = outcomes(file, everything(file.read_bytes()), read)
    assert found["refused"] > 350  # the others changed what fills the gaps between the parts


def test_a_bit_changed_in_a_weight_of_the_book_is_always_noticed(tmp_path):
    file = write_book(tmp_path / "model.pth")
    content = file.read_bytes()
    for weight in list(book_state().values())[:4]:
        start = content.index(weight.detach().numpy().tobytes())
        size = weight.numel() * 4
        changed = (
            content[:start] + part + content[start + size :]
            for part in flips(content[start : start + size], 25)
        )
        assert outcomes(file, changed, lambda: load_checkpoint(file)) == {"refused": 25}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_spoilt_file_of_hugging_face_is_refused_or_read_with_the_same_shapes(tmp_path, name):
    folder = without_tokenizer(write_huggingface(tmp_path / "hf"))
    shapes = {n: w.shape for n, w in read_huggingface(folder)[0].items()}

    def read():
        assert {n: w.shape for n, w in read_huggingface(folder)[0].items()} == shapes

    found = outcomes(folder / name, everything((folder / name).read_bytes()), read)
    assert found["refused"] > 100


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_hostile_values_in_a_json_file_of_hugging_face_are_refused_or_harmless(tmp_path, name):
    folder = without_tokenizer(write_huggingface(tmp_path / "hf"))
    if name.startswith("model"):
        names = [f"transformer.{name}" for name in ("wte.weight", "wpe.weight", "ln_f.bias")]
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        index = {
            "metadata": {},
            "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors"),
        }
        (folder / name).write_text(json.dumps(index))
    document = json.loads((folder / name).read_text())
    found = outcomes(folder / name, hostile_json(document), lambda: read_huggingface(folder))
    assert found["refused"] > 100


def test_hostile_values_in_a_config_of_qwen3_are_refused_or_harmless(tmp_path):
    folder = write_qwen3(tmp_path / "hf")
    file = folder / "config.json"
    document = json.loads(file.read_text())
    shapes = {n: w.shape for n, w in read_huggingface(folder)[0].items()}

    def read():
        assert {n: w.shape for n, w in read_huggingface(folder)[0].items()} == shapes

    for contents in (hostile_json(document), flips(file.read_bytes(), 60)):
        assert outcomes(file, contents, read)["refused"] > 20


def test_hostile_values_in_the_header_of_safetensors_are_refused_or_harmless(tmp_path):
    folder = without_tokenizer(write_huggingface(tmp_path / "hf"))
    file = folder / "model.safetensors"
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    part = {
        name: header.pop(name)
        for name in ("__metadata__", "transformer.wte.weight", "transformer.h.0.ln_1.bias")
    }

    def spoilt():
        for text in hostile_json(part):
            if text.startswith(b"{") and text != b"{}":
                text = text[:-1] + b", " + json.dumps(header)[1:].encode()
            yield struct.pack("<Q", len(text)) + text + data
        for wrong in (
            0,
            1,
            7,
            size - 1,
            size + 1,
            len(content),
            2**20,
            10**8,
            2**32,
            2**63,
            2**64 - 1,
        ):
            yield struct.pack("<Q", wrong) + content[8:]

    found = outcomes(file, spoilt(), lambda: read_huggingface(folder))
    assert found["refused"] > 400


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt"])
@pytest.mark.one_in(3)
def test_a_spoilt_tokenizer_of_hugging_face_is_refused_or_read_whole(tmp_path, name):
    folder = write_huggingface(tmp_path / "hf")
    if name != "tokenizer.json":
        (folder / "tokenizer.json").unlink()
    content = (folder / name).read_bytes()

    def read():
        state = read_tokenizer(folder)
        assert state is not None and sorted(bytes.fromhex(t) for t in state["tokens"]) == [
            bytes([b]) for b in range(256)
        ]

    spoilt = [*everything(content)]
    if name.endswith(".json"):
        document = json.loads(content)
        spoilt += hostile_json(document)
    found = outcomes(folder / name, spoilt, read)
    assert found["refused"] > 100


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint",
        "hparams.json",
        "encoder.json",
        "vocab.bpe",
        "model.ckpt.index",
        "model.ckpt.data-00000-of-00001",
    ],
)
@pytest.mark.one_in(3)
def test_a_spoilt_file_of_openai_is_refused_or_read_with_the_same_weights(tmp_path, name):
    folder = write_openai(tmp_path / "124M")
    expected = read_openai(folder)[0]

    def read():
        assert same(read_openai(folder)[0], expected)

    content = (folder / name).read_bytes()
    found = outcomes(folder / name, everything(content), read)
    assert found["refused"] > 100
    if name.startswith("model.ckpt.data"):
        assert not found["read"]
    if name.endswith(".json"):
        outcomes(folder / name, hostile_json(json.loads(content)), read)


def test_a_changed_bit_in_any_tensor_of_tensorflow_is_always_noticed(tmp_path):
    folder = write_openai(tmp_path / "124M")
    file = TensorBundle(folder / "model.ckpt").data_file(0)
    assert outcomes(file, flips(file.read_bytes(), 300, seed=1), lambda: read_openai(folder)) == {
        "refused": 300
    }
