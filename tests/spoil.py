"""Ways to spoil a file, and the bounds within which its reader must say so."""

import copy
import json
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOSTILE: list[Any] = [
    None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, float("nan"), float("inf"), "", "x", "\0", "a\nb", "\ud800",
    "\x1b[2J", "../x", "/etc/passwd", "http://x/y", "${oc.env:HOME}", "x" * 100_000, [], [None], [[[]]], {}, {"a": 1},
]  # fmt: skip
"""What JSON may hold in the place of anything."""
DEEP = b"[" * 50_000 + b"]" * 50_000
GIGABYTE = 2**30
STATM = Path("/proc/self/statm")
"""Of Linux: the size of this process, in pages."""


def cuts(content: bytes) -> Iterator[bytes]:
    """Cut short at every 64th part."""
    yield from (content[: len(content) * part // 64] for part in range(64))


def flips(content: bytes, n: int = 300, *, seed: int = 0) -> Iterator[bytes]:
    """One bit changed, `n` times."""
    draw = random.Random(seed)
    for _ in range(n):
        position = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        yield bytes(changed)


def splices(content: bytes, n: int = 100, *, seed: int = 0) -> Iterator[bytes]:
    """A part left out, made noise, made extreme, or copied elsewhere, `n` times."""
    draw = random.Random(seed)
    for _ in range(n):
        at, length = draw.randrange(len(content)), draw.choice((1, 2, 8, 64, 500))
        source = draw.randrange(len(content))
        middle = draw.choice(
            (
                b"",
                draw.randbytes(length),
                bytes([draw.choice((0, 0x7F, 0x80, 0xFF))]) * length,
                None,
            )
        )
        if middle is None:
            yield content[:at] + content[source : source + length] + content[at:]
        else:
            yield content[:at] + middle + content[at + length :]


def everything(content: bytes) -> Iterator[bytes]:
    """All of these, and nothing at all."""
    yield from (b"", *cuts(content), *flips(content), *splices(content))


def hostile_json(document: Any) -> Iterator[bytes]:
    """The document with each of its nodes left out, or replaced by each `HOSTILE` value; of long
    lists a few nodes.
    """
    yield DEEP
    for path in _paths(document):
        for value in HOSTILE:
            yield json.dumps(_changed(document, path, value)).encode()
        if path:
            yield json.dumps(_changed(document, path, ...)).encode()


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    keys = (
        list(node)
        if isinstance(node, dict)
        else list(range(len(node)))
        if isinstance(node, list)
        else []
    )
    for key in keys if len(keys) < 30 else [*keys[:2], keys[-1]]:
        yield from _paths(node[key], (*path, key))


def _changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = node = copy.deepcopy(document)
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


@contextmanager
def within(seconds: int, memory: int = GIGABYTE) -> Iterator[None]:
    """Raise in the block if it takes longer, or asks for more memory than that on top of what this
    process has.

    Time is the processor's for this process: other programs do not count.

    The memory is bounded on Linux only: elsewhere there is no such bound, or nothing to read what
    the process has.
    """

    def too_long(*_: object) -> None:
        raise TimeoutError(f"a reader did not come to an end in {seconds} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if STATM.exists():
        pages = int(STATM.read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
