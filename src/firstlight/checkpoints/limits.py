"""Limits for files from elsewhere: no code, no sizes out of proportion, no changed bit."""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.errors import ConfigError, DamagedError, one_line, shorten
from firstlight.files import can_be_mapped

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Dtypes that weights may have."""
MAX_TENSORS = 2**14
"""Tensors in a file: GPT-2 XL has 580. Whatever is done for each of them takes seconds at most."""
MAX_NAMES = 2
"""Names of one tensor in a file: a head that is the embedding has two."""
_PLAIN = (
    r"collections\.(OrderedDict|defaultdict|Counter)"
    r"|_codecs\.encode|(__builtin__|builtins)\.(set|complex)"
)
_NAMES = re.compile(rf"{_PLAIN}|torch\..+")
"""Names that a pickle may refer to, before torch.load examines torch's own. Not bytearray: it could
be of any size."""
_OLD_NAMES = re.compile(rf"{_PLAIN}|torch\._utils\._rebuild_\w+|torch\.(\w+Storage|Size|device)")
"""The same for the old format, which torch.load is never given."""


class FileError(ValueError):
    """A file is damaged, or claims more than its size can hold."""


class CodeError(FileError):
    """A pickle refers to something that could be called; the message is its name."""


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for torch. This is the only way into one.

    Raises:
        DamagedError: it is damaged, cannot be read, or has more than `MAX_TENSORS`; also if reading
        in the block fails. ConfigError: its file system cannot map files into memory.
    """
    try:
        with safe_open(path, framework="pt") as file:
            # The header alone has been read: a file may name millions of empty tensors.
            n_tensors = len(file.keys())
            if n_tensors > MAX_TENSORS:
                raise FileError(f"{n_tensors:,} tensors, there may be {MAX_TENSORS:,}")
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        if not can_be_mapped(path):
            raise ConfigError(
                f"{path}: its file system cannot map it into memory; copy it to another one"
            ) from None
        raise DamagedError(
            f"{path}: damaged, or not a safetensors file ({one_line(error)})"
        ) from None


def check_torch_file(path: Path) -> None:
    """Refuse some files, before unpickling, that `torch.load(weights_only=True)` accepts.

    torch.load ignores the checksums that torch.save wrote, reads old formats that have none, and
    lets a few bytes ask for a bytearray of any size. Here the names in a pickle are read without
    unpickling it.

    Raises:
        FileError: torch.save does not write such a file today, or a bit of it has changed.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # torch's own test
            file.seek(0)
            _refuse_old_format(io.BytesIO(file.read(2**24)))
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise FileError("compressed, which torch.save never does")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise FileError("its parts overlap")
            # Written with torch.utils.serialization.config.save.compute_crc32 = False.
            if all(entry.CRC == 0 for entry in entries):
                raise FileError("saved without checksums: torch.save it again")
            # torch.load does not compare the checksums that torch.save has written.
            damaged = archive.testzip()
            if damaged is not None:
                raise FileError(f"the checksum of {shorten(repr(damaged))} differs")
            for entry in entries:
                if entry.filename.lower().endswith("data.pkl"):
                    with archive.open(entry) as pickle:
                        _check_names(pickle, _NAMES)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as error:  # RuntimeError: a password
        raise FileError(str(error)) from None


def check_tensors(state: Mapping[Any, Any], size: int) -> None:
    """Refuse a state dict that is not plain tensors by name, or larger than its file.

    The file has `size` bytes.

    A file can claim that a single number is a matrix of any shape (a stride of 0), or that one part
    of it is a thousand matrices.

    Raises:
        FileError: it is such a state dict.
    """
    if len(state) > MAX_TENSORS:
        raise FileError(f"{len(state):,} tensors, there may be {MAX_TENSORS:,}")
    total = 0
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise FileError("its state dict holds something else than tensors by name")
        if (
            tensor.layout != torch.strided
            or tensor.device.type != "cpu"
            or tensor.is_quantized
            or tensor.is_nested
        ):
            raise FileError(f"{shorten(name)} is not a plain tensor")
        total += tensor.numel() * tensor.element_size()
    if total > MAX_NAMES * size:
        raise FileError("its tensors are larger than the file")


def _refuse_old_format(stream: IO[bytes]) -> None:
    """Refuse a file that is not a zip file; if it begins with pickles, say what they refer to.

    Raises:
        FileError: always.
    """
    is_pickle = False
    try:
        for _ in range(4):  # torch's: a magic number, a version, the system, the object
            _check_names(stream, _OLD_NAMES)
            is_pickle = True
    except CodeError:
        raise
    except ValueError:  # not a pickle, or no further one
        pass
    if is_pickle:
        raise FileError(
            "a pickle, or torch's format of before 2020, which has no checksums: torch.save it"
            " again"
        )
    raise FileError("torch.save writes zip files, and this is not one")


def _check_names(pickle: IO[bytes], allowed: re.Pattern[str]) -> None:
    for name in _globals(pickle):
        if not allowed.fullmatch(name):
            raise CodeError(shorten(name))


def _globals(pickle: IO[bytes]) -> Iterator[str]:
    """The names that a pickle refers to, without following them."""
    # STACK_GLOBAL takes the module and the name from the stack: the last two texts.
    words = [""]
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(words[-2:])
        elif isinstance(argument, str):
            words = [words[-1], argument]
