"""What only reading all of a file tells, remembered for each file in the cache folder.

A file that has kept its size, its times of change and its number on the disk is taken to be as it
was.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from firstlight.data.cache import cache_dir
from firstlight.data.files import read_limited, unreadable
from firstlight.files import replacing, temporary_of

SETTLED = 2.0
"""Seconds. A file that changed later than this before it was read may change again unnoticed: the
clock of a file system is coarse."""
LONGEST = 2**12
"""Bytes in what is remembered of a file."""


def remembered(
    file: Path, kind: str, find: Callable[[], dict[str, Any]], keys: set[str]
) -> dict[str, Any]:
    """Return what `find` finds by reading `file`, or what it found when it was last read.

    That is a value for each of `keys`. `kind` is the folder, within the cache folder, in which such
    facts are.

    Raises:
        ValueError: the file cannot be read.
    """
    state = state_of(file)
    # Whatever is wrong with what was remembered, the file itself can be read again.
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(read_limited(_memory(file, kind), LONGEST))
        if known["state"] == state and known["facts"].keys() == keys:
            return known["facts"]
    facts = find()
    last_change = max(state[1:3]) / 1e9
    if state_of(file) == state and time.time() - last_change > SETTLED:
        remember(file, kind, facts)
    return facts


def remember(file: Path, kind: str, facts: dict[str, Any]) -> None:
    """Keep the facts about `file` as it is now: it was just written by this process, or settled.

    Raises:
        ValueError: the file cannot be looked at.
    """
    state, memory = state_of(file), _memory(file, kind)
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memory, through=temporary_of(memory, str(os.getpid()))) as stream:
            json.dump({"state": state, "facts": facts}, stream)


def _memory(file: Path, kind: str) -> Path:
    name = hashlib.sha256(str(file.absolute()).encode()).hexdigest()
    return cache_dir() / kind / f"{name}.json"


def state_of(file: Path) -> list[int]:
    """Return size, times of the last change in nanoseconds, and number of a file.

    The time of its content can be set to an earlier one, as programs that copy files do; that of
    its entry cannot.

    Raises:
        ValueError: it is missing, or cannot be looked at.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise unreadable(file, error) from None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
