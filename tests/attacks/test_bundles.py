"""OpenAI's folders: what TensorFlow's files say of themselves is checked before it is allocated,
read or followed.
"""

import json
import os
import struct
from pathlib import Path

import bundle_writer as write
import pytest
from doors import DOORS
from foreign_models import HPARAMS, write_openai
from spoil import within

from firstlight.errors import ConfigError
from firstlight.foreign.tensorflow import TensorBundle
from firstlight.sources import load_checkpoint

HUGE = 2**62


def index(changed=None, **settings):
    """Write the index again, with fields of `model/wte` changed."""

    def attack(folder):
        bundle = TensorBundle(folder / "model.ckpt")
        pairs = [(b"", write.header())]
        for name, e in bundle.entries.items():
            crc32c = struct.pack("<I", e.crc32c)
            fields = {"shape": e.shape, "offset": e.offset, "size": e.size, "crc32c": crc32c}
            pairs.append(
                (
                    name.encode(),
                    write.entry(**fields | ((changed or {}) if name == "model/wte" else {})),
                )
            )
        bundle.index.write_bytes(write.table(pairs, **settings))

    return attack


def file(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def hparams(**changes):
    return file("hparams.json", json.dumps(HPARAMS | changes).encode())


def linked(name, target):
    def attack(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return attack


def pipe(name):
    def attack(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return attack


def hole(name):
    """A file of 100 GB that takes no room on the disk."""

    def attack(folder):
        with (folder / name).open("wb") as stream:
            stream.truncate(100 * 2**30)

    return attack


DATA, INDEX = "model.ckpt.data-00000-of-00001", "model.ckpt.index"
ATTACKS = {
    "an offset behind the file": (index({"offset": HUGE}), "cut short"),
    "an offset just behind it": (index({"offset": 20_352 - 8}), "cut short"),
    "a size without end": (index({"size": HUGE}), "does not have the size of its shape"),
    "a shape without end": (index({"shape": (HUGE, HUGE)}), "does not have the shape of a tensor"),
    "a shape that is large": (
        index({"shape": (10**9, 12), "size": 48 * 10**9}),
        "hparams.json makes it",
    ),
    "a checksum of another": (index({"crc32c": bytes(4)}), "checksum of 'model/wte' differs"),
    "another data file": (index({"shard": 1}), "is in data file 1 of 1"),
    "compressed": (index(compression=1), "compressed"),
    "layers without end": (hparams(n_layer=2**62), "has 1 layers"),
    "a vocabulary without end": (hparams(n_vocab=2**62), "hparams.json makes it"),
    "numbers without end": (
        file("hparams.json", b'{"n_vocab": ' + b"9" * 10_000 + b"}"),
        "hparams.json: ",
    ),
    "nested without end": (file("encoder.json", b"[" * 100_000), "encoder.json: "),
    "a path out of the folder": (
        file("checkpoint", b'model_checkpoint_path: "../../secret"\n'),
        "secret.index",
    ),
    "an absolute path": (
        file("checkpoint", b'model_checkpoint_path: "/etc/passwd"\n'),
        "passwd.index",
    ),
    "a device for data": (linked(DATA, "/dev/zero"), "cut short"),
    "a device for an index": (linked(INDEX, "/dev/zero"), "not a regular file"),
    "a device for sizes": (linked("hparams.json", "/dev/zero"), "not a regular file"),
    "a pipe for merges": (pipe("vocab.bpe"), "vocab.bpe: missing"),
    "a pipe for data": (pipe(DATA), "cut short"),
    "a huge index": (hole(INDEX), "over 16,777,216 bytes"),
    "a huge vocabulary": (hole("encoder.json"), "over 67,108,864 bytes"),
}


@pytest.mark.parametrize(("attack", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_a_hostile_folder_of_openais_is_refused(attack, reason):
    folder = write_openai(Path("124M"))
    attack(folder)
    with within(seconds=10), pytest.raises(ConfigError) as caught:
        load_checkpoint(folder)
    line = str(caught.value)
    assert reason in line
    assert line.isprintable() and len(line) < 300


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["an offset behind the file", "a checksum of another"])
def test_it_is_refused_at_every_door(door, name, refusal):
    attack, reason = ATTACKS[name]
    attack(write_openai(Path("124M")))
    assert reason in refusal(DOORS[door]("124M"))


def test_a_folder_that_nobody_has_touched_is_read():
    assert load_checkpoint(write_openai(Path("124M"))).build_model().vocab_size == 257
