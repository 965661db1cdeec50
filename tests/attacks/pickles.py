"""Pickles that run a command, in every format that torch has had."""

import builtins
import functools
import importlib
import io
import operator
import pickle
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from doors import CODE, MARKER, TOUCH, Call

IN_TENSORS = r"posix\.system|torch\.storage\._load_from_bytes"
"""What is named first where tensors are pickled by torch, or without it."""
OPEN = f"open({str(MARKER)!r}, 'w').close()"


class Setter:
    """Pickled as a text whose state is set by `exec`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, (OPEN,), {}, None, None, builtins.exec)


def torch_load() -> Any:
    """torch.load itself, of another file, without its guard."""
    torch.save(CODE, "inner.pth")
    return Call(functools.partial(torch.load, weights_only=False), "inner.pth")


def numpy_load() -> Any:
    """numpy.load(file, mmap_mode, allow_pickle)."""
    np.save("inner.npy", np.array([CODE], dtype=object), allow_pickle=True)
    return Call(np.load, "inner.npy", None, True)


PAYLOADS: dict[str, tuple[Callable[[], Any], str]] = {
    "os.system": (lambda: CODE, r"posix\.system"),
    "exec": (lambda: Call(builtins.exec, OPEN), "exec"),
    "eval": (lambda: Call(builtins.eval, OPEN), "eval"),
    "a process": (
        lambda: Call(subprocess.check_call, TOUCH.split()),
        r"(subprocess|commands)\.check_call",
    ),
    "a path": (lambda: Call(Path.touch, MARKER), r"getattr|pathlib\.Path\.touch"),
    "torch.load": (torch_load, "functools.partial"),
    "numpy.load": (numpy_load, "numpy.load"),
    "a chain": (
        lambda: Call(operator.methodcaller("system", TOUCH), Call(importlib.import_module, "os")),
        "operator.methodcaller",
    ),
    "a state": (Setter, r"str|unicode"),
    "a storage": (
        lambda: Call(torch._utils._rebuild_tensor_v2, CODE, 0, (1,), (1,), False, {}),
        r"posix\.system",
    ),
    "among weights": (
        lambda: {"tok_emb.weight": torch.ones(3, 2), "final_norm.scale": CODE},
        IN_TENSORS,
    ),
    "behind weights": (
        lambda: {**{f"w{n}": torch.ones(100) for n in range(20)}, "epoch": CODE},
        IN_TENSORS,
    ),
    "below the state dict": (
        lambda: {"model_state_dict": {"tok_emb.weight": {"x": [CODE]}}},
        r"posix\.system",
    ),
}
"""What to save, and the first name in it that is not allowed, as Python 2 or 3 has it."""


def zip_file(payload: Any, file: Path) -> None:
    """What torch.save writes."""
    torch.save(payload, file)


def old_file(payload: Any, file: Path) -> None:
    """What torch.save wrote before 2020."""
    torch.save(payload, file, _use_new_zipfile_serialization=False)


def bare(payload: Any, file: Path, protocol: int) -> None:
    """No more than a pickle."""
    file.write_bytes(pickle.dumps(payload, protocol=protocol))


def tar_file(payload: Any, file: Path) -> None:
    """What torch.save wrote before 0.2."""
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(payload, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def own_zip(payload: Any, file: Path, name: str = "archive/data.pkl", protocol: int = 2) -> None:
    """A zip file like torch's, by hand."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, pickle.dumps(payload, protocol=protocol))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


FORMATS: dict[str, Callable[[Any, Path], None]] = {
    "zip": zip_file,
    "before 2020": old_file,
    "before 0.2": tar_file,
    **{f"bare pickle {n}": functools.partial(bare, protocol=n) for n in range(6)},
    "zip, pickle 5": functools.partial(own_zip, protocol=5),
    "zip, in capitals": functools.partial(own_zip, name="archive/DATA.PKL"),
}
