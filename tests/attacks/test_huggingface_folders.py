"""Folders like those of Hugging Face's hub: no pickle, no code beside the weights, no file outside
of the folder.
"""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from doors import CODE, DOORS, MARKER
from foreign_models import write_huggingface
from spoil import within

from firstlight.errors import ConfigError
from firstlight.sources import load_checkpoint

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


def pickled(folder):
    """Weights as a pickle, as before safetensors."""
    (folder / WEIGHTS).unlink()
    torch.save({"transformer.wte.weight": CODE}, folder / "pytorch_model.bin")


def pickled_under_another_name(folder):
    torch.save({"transformer.wte.weight": CODE}, folder / WEIGHTS)


def indexed(name):
    """Weights in parts, of which one is called `name`."""

    def attack(folder):
        Path("elsewhere.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        parts = {"a": "model-00001-of-00002.safetensors", "b": name}
        (folder / INDEX).write_text(json.dumps({"weight_map": parts}))

    return attack


def changed(name, **fields):
    """A JSON file with other fields."""
    return lambda folder: (folder / name).write_text(
        json.dumps(json.loads((folder / name).read_text()) | fields)
    )


def header(**tensors):
    """Other words about tensors in the header of the weights."""

    def attack(folder):
        content = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        words = json.loads(content[8 : 8 + size])
        for name, fields in tensors.items():
            words[f"transformer.{name}.weight"] |= fields
        text = json.dumps(words).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return attack


def header_of(size):
    def attack(folder):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", size) + content[8:])

    return attack


def linked(name, target):
    def attack(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return attack


def pipe(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def own_code(folder):
    """What `trust_remote_code` would import."""
    (folder / "evil.py").write_text(f"open({str(MARKER.absolute())!r}, 'w')\n")
    changed(
        CONFIG,
        model_type="evil",
        auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"},
    )(folder)


ATTACKS = {
    "a pickle": (pickled, "pytorch_model.bin: a pickle can run code and is not read"),
    "a pickle under another name": (pickled_under_another_name, "not a safetensors file"),
    "code of its own": (own_code, "only the architectures of GPT-2, Qwen3, Llama can be read"),
    "a part above the folder": (
        indexed("../elsewhere.safetensors"),
        "is not the name of a safetensors file beside it",
    ),
    "a part at a path": (
        indexed("/etc/elsewhere.safetensors"),
        "is not the name of a safetensors file beside it",
    ),
    "a part at an address": (
        indexed("http://127.0.0.1:9/x.safetensors"),
        "is not the name of a safetensors file beside it",
    ),
    "a part that is a pickle": (
        indexed("pytorch_model.bin"),
        "is not the name of a safetensors file beside it",
    ),
    "a part that is not there": (
        indexed("b.safetensors"),
        "missing, though model.safetensors.index.json names it",
    ),
    "a part that is no text": (
        indexed(["b.safetensors"]),
        "is not the name of a safetensors file beside it",
    ),
    "a header without end": (header_of(2**62), "not a safetensors file"),
    "a header of 100 MB": (header_of(10**8), "not a safetensors file"),
    "offsets that overlap": (header(wpe={"data_offsets": [0, 384]}), "not a safetensors file"),
    "offsets behind the file": (
        header(wpe={"data_offsets": [10**12, 10**12 + 384]}),
        "not a safetensors file",
    ),
    "offsets backwards": (header(wpe={"data_offsets": [384, 0]}), "not a safetensors file"),
    "a shape without end": (header(wpe={"shape": [2**62, 2**62]}), "not a safetensors file"),
    "layers without end": (changed(CONFIG, n_layer=2**62), "have no h.1."),
    "a width without end": (changed(CONFIG, n_embd=3 * 2**61), "config.json"),
    "a number without end": (changed(CONFIG, vocab_size=10**400), "config.json: vocab_size"),
    "a device for a config": (
        linked(CONFIG, "/dev/zero"),
        "config.json: cannot be read (not a regular file)",
    ),
    "a device for weights": (linked(WEIGHTS, "/dev/zero"), "neither model.safetensors"),
    "a device for a vocabulary": (linked("tokenizer.json", "/dev/zero"), ""),
    "a pipe for a vocabulary": (pipe, ""),
    "a vocabulary nested without end": (
        lambda folder: (folder / "tokenizer.json").write_bytes(b"[" * 100_000),
        "tokenizer.json: damaged: it is not JSON",
    ),
}


@pytest.mark.parametrize(("attack", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_a_hostile_folder_is_refused(attack, reason):
    folder = write_huggingface(Path("theirs"))
    attack(folder)
    with within(seconds=10):
        try:
            loaded = load_checkpoint(folder)
        except ConfigError as error:
            line = str(error)
            assert reason in line
            assert line.isprintable() and len(line) < 300
        else:
            assert reason == "" and loaded.tokenizer is not None
    assert not MARKER.exists()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "prefix"), [("a pickle", ""), ("code of its own", "hf:"), ("a part at a path", "")]
)
def test_it_is_refused_at_every_door(door, name, prefix, refusal):
    attack, reason = ATTACKS[name]
    attack(write_huggingface(Path("theirs")))
    assert reason in refusal(DOORS[door](f"{prefix}theirs"))


@pytest.mark.parametrize("door", DOORS)
def test_the_pickle_itself_is_refused_by_the_name_of_its_code(door, refusal):
    folder = write_huggingface(Path("theirs"))
    pickled(folder)
    assert "holds code (posix.system)" in refusal(DOORS[door](folder / "pytorch_model.bin"))


def test_a_folder_that_nobody_has_touched_is_read():
    assert load_checkpoint(write_huggingface(Path("theirs"))).build_model().vocab_size == 257
