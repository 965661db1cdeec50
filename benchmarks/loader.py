"""Measure reading batches from shards: tokens a second of processor time, warm and from the disk.

    .venv/bin/python benchmarks/loader.py [--megabytes 400]

Windows are drawn in the order of a run. "warm" is with the file in the page cache, "cold" after it
was dropped from it (Linux). The last line is the first batch of 10^10 windows, of a file that is a
hole.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstlight.data.order import SeededOrder
from firstlight.data.remembered import SETTLED
from firstlight.data.shards.data import ShardsData
from firstlight.data.shards.shard import BLOCK, Shard, header
from firstlight.data.shards.windows import ShardTokens, ShardWindows
from firstlight.data.tokenizers.gpt2 import GPT2Tokenizer

GOAL = 25e6
"""Tokens a second: fifty times what a fast GPU trains on."""
SECONDS = 2.0
END = 50256


def write_shards(folder: Path, n_shards: int, n_tokens: int) -> list[Path]:
    """Write random tokens, in documents of 700 on average."""
    drawn, files = np.random.default_rng(1), []
    for number in range(n_shards):
        file = folder / f"web_train_{number:06d}.bin"
        with file.open("wb") as stream:
            stream.write(header("<u2", n_tokens))
            for first in range(0, n_tokens, BLOCK):
                size = min(BLOCK, n_tokens - first)
                ids = drawn.integers(0, END, size, dtype=np.uint16)
                ids[drawn.integers(0, size, size // 700)] = END
                stream.write(ids.tobytes())
        files.append(file)
    (folder / "web_val_000000.bin").write_bytes(header("<u2", 5000) + bytes(10_000))
    time.sleep(SETTLED + 1)  # from now on the checksums of the files are remembered
    return files


def data_of(folder: Path, **settings: Any) -> ShardsData:
    """Open the shards as a run does."""
    data = ShardsData(
        path=str(folder), tokenizer=GPT2Tokenizer(), order=SeededOrder(seed=1), **settings
    )
    data.setup()
    return data


def rate(data: ShardsData, seconds: float) -> tuple[float, float]:
    """Tokens for each second of processor time, and of wall time, of the training batches."""
    batches = iter(data.train_batches(start=0, stop=10**9))
    next(batches)
    cpu, wall, n_tokens = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - wall < seconds:
        inputs, _ = next(batches)
        n_tokens += inputs.numel()
    return n_tokens / (time.process_time() - cpu), n_tokens / (time.perf_counter() - wall)


def drop(files: list[Path]) -> None:
    """Drop files from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resident() -> float:
    """Megabytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def first_of_many(folder: Path) -> bool:
    """Time the first batch of 10^10 windows, far into the run."""
    file, n_tokens = folder / "hole.bin", 10**10 + 1
    with file.open("wb") as stream:
        stream.truncate(2 * n_tokens)
    before, began = resident(), time.perf_counter()
    windows = ShardWindows(
        ShardTokens([Shard(file, "<u2", 0, n_tokens)]), context_length=1, stride=1
    )
    order = SeededOrder(seed=1)
    batches = order.train_batches(
        len(windows), batch_size=512, shuffle=True, drop_last=True, start=10**6
    )
    _ = windows[next(batches)]
    seconds, more = time.perf_counter() - began, resident() - before
    print(f"first batch of {len(windows):,} windows: {seconds:.3f} s, {more:.0f} MB more")
    return seconds < 1 and more < 50


def main() -> int:
    """Print the figures; return 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    slowest = float("inf")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "web").mkdir()
        files = write_shards(folder / "web", 4, given.megabytes * 10**6 // 8)
        print(f"{given.megabytes} MB in 4 shards: million tokens a second, processor (wall)")
        for context_length, batch_size in ((256, 16), (256, 512), (1024, 16), (1024, 512)):
            line = f"  context {context_length:>5}, batch {batch_size:>4}:"
            for cross_documents in (True, False):
                settings = {
                    "context_length": context_length,
                    "batch_size": batch_size,
                    "cross_documents": cross_documents,
                }
                warm, wall = rate(data_of(folder / "web", **settings), SECONDS)
                kind = "across documents" if cross_documents else "within"
                line += f"  {kind} {warm / 1e6:5.0f} ({wall / 1e6:.0f})"
                if cross_documents:
                    slowest = min(slowest, warm)
                    gc.collect()  # what is mapped cannot be dropped
                    drop(files)
                    cold, cold_wall = rate(data_of(folder / "web", **settings), SECONDS)
                    line += f", cold {cold / 1e6:.1f} ({cold_wall / 1e6:.1f})"
            print(line, flush=True)
        is_quick = first_of_many(folder)
    return 0 if slowest >= GOAL and is_quick else 1


if __name__ == "__main__":
    sys.exit(main())
