"""Run many cases: each ends where the work would begin, or with one clear line for every mistake.
Nothing else.
"""

import contextlib
import io
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from firstlight.errors import LONGEST_LINE

TINY = (
    "data=text", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16", "model.n_heads=2",
    "model.n_layers=1", "data.batch_size=2", "trainer.max_steps=2", "trainer.eval_every_n_steps=1",
    "trainer.accelerator=cpu", "callbacks.throughput.peak_flops=1e9", "output_dir=here",
)  # fmt: skip
"""The smallest training there is; `data.path` has to be given."""
LONGEST_CASE = 120
"""Seconds: what takes longer hangs, on the busiest machine, too."""
MOST_MEMORY = 2**30
"""Bytes that a case may take on top of what the tests have: an allocation beyond it fails."""


class Began(BaseException):
    """The work that was asked for would begin now."""


def fuzz(
    cases: SearchStrategy[Any], run: Callable[[Any], list[str] | None], *, n: int, place: Path
) -> Counter[str]:
    """Run `n` different `cases`, the same ones every time; count how they ended.

    `run` returns None if the work began, else what the user is told, a line a mistake; `place` is
    the present folder, where what was refused must have written nothing.
    """
    ends: Counter[str] = Counter()

    @settings(
        max_examples=n,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],  # explaining a failure makes everything slow
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def one(case: Any) -> None:
        err = io.StringIO()
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(err),
            _time_limit(),
        ):
            said = run(case)
        ends["began" if said is None else "refused"] += 1
        assert "Traceback" not in err.getvalue()
        if said is not None:
            assert_clear(said)
            assert list(place.iterdir()) == []
        for entry in place.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    seconds, memory = time.process_time(), peak_memory()
    with memory_limit(MOST_MEMORY):
        one()
    print(
        f"{ends.total():,} cases: {ends['began']:,} began, {ends['refused']:,} were refused;"
        f" {time.process_time() - seconds:.0f} s of CPU, {(peak_memory() - memory) / 1e6:.0f} MB"
        " more at the peak"
    )
    assert ends.total() >= n
    if n >= 100:  # of fewer nearly all may end in one way
        assert (
            min(ends["began"], ends["refused"]) > n / 20
        )  # else the cases are no longer what they should be
    return ends


def assert_clear(said: list[str]) -> None:
    """Each line says something, and can be read."""
    assert said
    for line in said:
        assert line.strip()
        assert line.isprintable() and len(line) <= LONGEST_LINE


def peak_memory() -> int:
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Within it this process cannot allocate `more` bytes; on Linux, where the system keeps the
    limit.
    """
    before, status = resource.getrlimit(resource.RLIMIT_DATA), Path("/proc/self/status")
    if status.is_file():
        (now,) = (
            line.split()[1]
            for line in status.read_text().splitlines()
            if line.startswith("VmData:")
        )
        resource.setrlimit(resource.RLIMIT_DATA, (int(now) * 1024 + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"it hangs: {LONGEST_CASE} s are over")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_CASE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
