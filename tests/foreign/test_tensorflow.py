import hashlib
import json
import random
import shutil
import tracemalloc
from pathlib import Path

import bundle_writer as write
import numpy as np
import pytest

from firstlight.errors import ConfigError
from firstlight.foreign.tensorflow import TensorBundle

FIXTURE = Path(__file__).parent / "tensorflow_fixture"
EXPECTED = json.loads((FIXTURE / "expected.json").read_text())


@pytest.fixture
def prefix(tmp_path):
    """A copy of the checkpoint that TensorFlow wrote."""
    for file in FIXTURE.glob("model.ckpt.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "model.ckpt"


def index_of(prefix):
    return prefix.with_name(f"{prefix.name}.index")


def digests(bundle):
    return {
        name: {"shape": list(tensor.shape), "sha256": hashlib.sha256(tensor.tobytes()).hexdigest()}
        for name in bundle.entries
        for tensor in [bundle.read(name)]
    }


def read_one(prefix, name):
    bundle = TensorBundle(prefix)
    return bundle.read(name or next(iter(bundle.entries)))


def refusal(prefix, *, name=None):
    with pytest.raises(ConfigError) as caught:
        read_one(prefix, name)
    message = str(caught.value)
    assert message.startswith(f"{prefix}.")
    assert "\n" not in message
    return message


def refusal_of_table(prefix, pairs, **settings):
    index_of(prefix).write_bytes(write.table(pairs, **settings))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(bytes(8))
    return refusal(prefix)


def test_every_tensor_is_the_one_that_tensorflow_reads():
    assert digests(TensorBundle(FIXTURE / "model.ckpt")) == EXPECTED


def test_tensors_of_other_dtypes_and_of_every_rank_come_back(tmp_path):
    tensors = {
        f"{dtype}/{rank}": np.ones((2, 0, 3)[:rank] if rank % 2 else (2, 1, 3, 1)[:rank], dtype)
        for dtype in write.DTYPES
        for rank in range(5)
    }
    write.write_bundle(tmp_path / "model.ckpt", tensors)
    bundle = TensorBundle(tmp_path / "model.ckpt")
    assert bundle.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = bundle.read(name)
        assert (
            read.dtype == tensor.dtype
            and read.shape == tensor.shape
            and np.array_equal(read, tensor)
        )


def test_tensors_in_two_data_files_come_back(tmp_path):
    tensors = {f"layer_{n}": np.full((n, 3), n, np.float32) for n in range(1, 50)}
    write.write_bundle(tmp_path / "model.ckpt", tensors, n_shards=2)
    bundle = TensorBundle(tmp_path / "model.ckpt")
    assert all(np.array_equal(bundle.read(name), tensor) for name, tensor in tensors.items())
    assert [bundle.data_size(n) for n in (0, 1)] == [
        bundle.data_file(n).stat().st_size for n in (0, 1)
    ]


def test_what_is_written_to_a_tensor_does_not_reach_the_file(prefix):
    bundle = TensorBundle(prefix)
    bundle.read("model/wte")[:] = 0
    assert digests(bundle) == EXPECTED


def test_an_index_cut_at_any_length_is_refused(prefix):
    content = index_of(prefix).read_bytes()
    for length in range(len(content)):
        index_of(prefix).write_bytes(content[:length])
        with pytest.raises(ConfigError, match="damaged"):
            TensorBundle(prefix)


def test_an_index_with_one_byte_changed_is_refused_or_still_right(prefix):
    content = index_of(prefix).read_bytes()
    unchanged = TensorBundle(prefix).entries
    still_right = 0
    for position in range(len(content)):
        for bits in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[position] ^= bits
            index_of(prefix).write_bytes(changed)
            try:
                assert TensorBundle(prefix).entries == unchanged
                still_right += 1
            except ConfigError:
                pass
    assert (
        still_right < 3 * 50
    )  # the padding of the footer, and the block without content that nothing reads


def test_data_with_one_byte_changed_is_refused_with_the_name_of_the_tensor(prefix):
    bundle = TensorBundle(prefix)
    file = bundle.data_file(0)
    content = file.read_bytes()
    for name, entry in bundle.entries.items():
        for position in (
            entry.offset,
            entry.offset + entry.size // 2,
            entry.offset + entry.size - 1,
        ):
            changed = bytearray(content)
            changed[position] ^= 0x10
            file.write_bytes(changed)
            assert f"the checksum of '{name}' differs" in refusal(prefix, name=name)


def test_data_that_is_cut_short_is_refused(prefix):
    file = TensorBundle(prefix).data_file(0)
    file.write_bytes(file.read_bytes()[:-1])
    assert "cut short (281,279 bytes; 'model/wte' ends at 281,280)" in refusal(
        prefix, name="model/wte"
    )


def damage(seed):
    """A change of some bytes of a block: what its checksum, taken afterwards, does not tell."""
    draw = random.Random(seed)

    def change(content):
        changed = bytearray(content)
        for _ in range(draw.choice((0, 1, 1, 2, 8))):
            changed[draw.randrange(len(changed))] = draw.choice(
                (0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256))
            )
        return bytes(changed)

    return change


def test_damage_that_no_checksum_tells_is_refused_or_read_within_the_files(tmp_path):
    tensors = {f"scope_{n % 3}/layer_{n}": np.full((n, 3), n, np.float32) for n in range(25)}
    prefix = tmp_path / "model.ckpt"
    outcomes = set()
    tracemalloc.start()
    for seed in range(400):
        write.write_bundle(prefix, tensors, damage=damage(seed), per_block=7)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            bundle = TensorBundle(prefix)
            for name, entry in bundle.entries.items():
                if entry.dtype is not None:
                    assert bundle.read(name).nbytes <= bundle.data_size(entry.shard)
            outcomes.add("read")
        except FileNotFoundError:  # of a header that says that there are more data files
            outcomes.add("no such data file")
        except ConfigError as error:
            outcomes.add(str(error).split("(")[-1])
        assert tracemalloc.get_traced_memory()[1] - before < 100_000
    tracemalloc.stop()
    assert len(outcomes) > 10


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"offset": HUGE}, "cut short (8 bytes; 'x' ends at 9,223,372,036,854,775,815)"),
        ({"offset": 1}, "cut short"),
        ({"size": HUGE}, "'x' does not have the size of its shape"),
        ({"size": HUGE - 3, "shape": (2**61 - 1,)}, "'x' does not have the shape of a tensor"),
        ({"shape": (2**32, 2**32, 2)}, "'x' does not have the shape of a tensor"),
        ({"shape": (0, 2**62), "size": 0}, "'x' does not have the shape of a tensor"),
        ({"shape": (2**64 - 1,)}, "'x' does not have the shape of a tensor"),
        ({"shape": (1,) * 65}, "'x' does not have the shape of a tensor"),
        ({"shape": (3,)}, "'x' does not have the size of its shape"),
        ({"shard": 1}, "'x' is in data file 1 of 1"),
        ({"shard": HUGE}, "is in data file"),
        ({"dtype": 7}, "'x' is of a dtype that cannot be read here"),
        ({"crc32c": bytes(4)}, "the checksum of 'x' differs"),
    ],
    ids=str,
)
def test_a_tensor_that_cannot_be_is_refused(tmp_path, entry, message):
    pairs = [(b"", write.header()), (b"x", write.entry(**entry))]
    assert message in refusal_of_table(tmp_path / "model.ckpt", pairs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(b"", write.header()), (b"x", write.entry() + write.part(7, b""))], "saved in slices"),
        ([(b"", write.header()), (b"x", write.entry()[:-1])], "cut short"),
        ([(b"", write.header()), (b"x", b"\xff" * 11)], "more than 64 bits"),
        ([(b"", write.header()), (b"x", b"\x0b")], "unknown kind"),
        ([(b"", write.header()), (b"x", b"\x12" + write.varint(2**63))], "cut short"),
        ([(b"", write.header()), (b"\xff", write.entry())], "'utf-8' codec"),
        ([(b"", write.header()), (b"x\ny", write.entry(shard=1))], r"'x\ny' is in data file 1"),
        (
            [(b"", write.header()), (b"x", write.entry()), (b"x", write.entry())],
            "names are not in order",
        ),
        (
            [(b"", write.header()), (b"x", write.entry()), (b"a", write.entry())],
            "names are not in order",
        ),
        ([(b"", write.header(endianness=1)), (b"x", write.entry())], "big-endian"),
        ([(b"", write.header(0)), (b"x", write.entry())], "0 data files"),
        ([(b"", write.header(10**6)), (b"x", write.entry())], "1000000 data files"),
        ([(b"x", write.entry())], "0 data files"),
    ],
    ids=range(13),
)
def test_an_index_that_cannot_be_is_refused(tmp_path, pairs, message):
    assert message in refusal_of_table(tmp_path / "model.ckpt", pairs)


def test_compression_is_refused_by_its_number(tmp_path):
    pairs = [(b"", write.header()), (b"x", write.entry())]
    assert "compressed by method 1 (snappy is 1), which cannot be read here" in refusal_of_table(
        tmp_path / "model.ckpt", pairs, compression=1
    )


def test_names_that_unfold_without_end_are_refused(tmp_path):
    """3 kB each, of which 4 bytes are written: 60 MB from 160 kB."""
    content = write.varint(0) + write.varint(0) + write.varint(len(write.header())) + write.header()
    content += write.varint(0) + write.varint(3000) + write.varint(0) + b"a" * 3000
    for position in range(20_000):
        suffix = b"%05d" % position
        content += write.varint(3000) + write.varint(5) + write.varint(0) + suffix
    content += bytes(4)
    blocks = iter([content, write.block([])])
    pairs = [(b"x", b"")]
    tracemalloc.start()
    message = refusal_of_table(
        tmp_path / "model.ckpt", pairs, damage=lambda plain: next(blocks, plain)
    )
    assert tracemalloc.get_traced_memory()[1] < 40 * len(content)
    tracemalloc.stop()
    assert "names are longer than it can hold" in message


def test_a_block_that_is_listed_twice_is_refused(tmp_path):
    """A large block without names, listed a million times, would take for ever."""
    blocks = [write.block([]), write.block([]), write.block([(b"a", b"\0\4"), (b"b", b"\0\4")])]
    message = refusal_of_table(
        tmp_path / "model.ckpt", [(b"x", b"")], damage=lambda plain: blocks.pop(0)
    )
    assert "blocks are not in order" in message


def test_a_missing_file_is_the_error_of_the_system(tmp_path, prefix):
    with pytest.raises(FileNotFoundError):
        TensorBundle(tmp_path / "other.ckpt")
    bundle = TensorBundle(prefix)
    bundle.data_file(0).unlink()
    with pytest.raises(FileNotFoundError):
        bundle.read("model/wte")
