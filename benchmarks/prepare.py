"""Measure `firstlight prepare`: tokens a second of processor time beside tiktoken's, and memory.

    .venv/bin/python benchmarks/prepare.py [--megabytes 200] [--kills 20]

The text is made of the documents that come with firstlight and Python, with numbers between them,
so that no two are alike. tiktoken encodes a part of it by itself, in this process, in three ways;
the best one is the reference. Then the command is killed at random moments and given again: the
bytes must be the same.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import tiktoken

import firstlight

TEXTS = Path(firstlight.__file__).parent / "data" / "texts"
GOAL_OF_TIKTOKEN, GOAL_MEGABYTES = 0.8, 1000
PART = 8_000_000
"""Characters that tiktoken encodes for comparison, in each way."""

KILLED = """
import os, random, signal, sys, time
from firstlight.cli import main
import firstlight.prepare.command

n_kills, seconds, *words = sys.argv[1:]
drawn, n_done = random.Random(2), 0
while n_done < int(n_kills):
    child = os.fork()
    if not child:
        os._exit(main(words))
    # What is whole by then stays: so the work is done after about as many kills.
    time.sleep(drawn.uniform(0, float(seconds) * min(1, 4 / int(n_kills))))
    os.kill(child, signal.SIGKILL)
    n_done += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
sys.exit(main(words))
"""
"""The command is given, killed and given again, with the imports made once."""


def documents(n_bytes: int) -> Iterator[str]:
    """Yield documents, `n_bytes` together, of 3,000 characters on average, as pages of the web."""
    drawn = random.Random(1)
    paragraphs: list[str] = []
    for file in sorted(TEXTS.glob("*.txt")):
        paragraphs += [p for p in file.read_text(encoding="utf-8").split("\n\n") if p.strip()]
    size = 0
    while size < n_bytes:
        parts = drawn.choices(paragraphs, k=drawn.randint(1, 40))
        text = "\n\n".join([f"No. {drawn.randrange(10**9)}", *parts])
        size += len(text.encode())
        yield text


def processor_seconds(call: Callable[[], int]) -> float:
    """Tokens for each second of this process."""
    began = time.process_time()
    n_tokens = call()
    return n_tokens / (time.process_time() - began)


def of_tiktoken(texts: list[str]) -> dict[str, float]:
    """Tokens a second of processor time, by the way in which tiktoken is called."""
    encoding = tiktoken.get_encoding("gpt2")
    encoding.encode_ordinary("warm")
    ways: dict[str, Callable[[], int]] = {
        "encode_ordinary": lambda: sum(len(encoding.encode_ordinary(text)) for text in texts),
        "encode_to_numpy": lambda: sum(
            len(encoding.encode_to_numpy(text, disallowed_special=())) for text in texts
        ),
        "encode_ordinary_batch": lambda: sum(
            map(len, encoding.encode_ordinary_batch(texts, num_threads=2))
        ),
    }
    return {name: processor_seconds(call) for name, call in ways.items()}


def resident_of(root: int) -> int:
    """Bytes of memory of a process and its children, shared pages counted once (Linux)."""
    total = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if root not in (parent, int(place.name)):
                continue
            lines = (place / "smaps_rollup").read_text().splitlines()
        except (OSError, ValueError, IndexError):
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def processor_seconds_of(pid: int) -> float:
    """Processor time of a process, without its children; 0 if it has ended (Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """What a command took."""

    wall: float
    cpu: float
    """Processor seconds of all its processes."""
    own_cpu: float
    """Those of the process that reads and writes."""
    memory: int
    """The most bytes at one time."""


def words_of(source: Path, out: Path) -> list[str]:
    """The command, with shards small enough that there are several."""
    n_tokens = min(5_000_000, source.stat().st_size // 50)
    return ["prepare", "data=text", f"data.path={source}", f"out={out}", f"shard_tokens={n_tokens}"]


def prepared(source: Path, out: Path) -> Used:
    """Run the command; return what it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "firstlight", *words_of(source, out)])
    largest, own = 0, 0.0

    def watch() -> None:
        nonlocal largest, own
        while process.poll() is None:
            largest = max(largest, resident_of(process.pid))
            own = max(own, processor_seconds_of(process.pid))
            time.sleep(0.3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.wait() == 0
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Used(time.perf_counter() - began, used, own, largest)


def hashes(folder: Path) -> dict[str, str]:
    """Hash every file but hidden ones."""
    found = sorted(folder.glob("[!.]*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def killed_and_completed(source: Path, out: Path, n_kills: int, seconds: float) -> None:
    """Kill the command, which takes `seconds`, `n_kills` times on its way; then complete it."""
    words = [str(n_kills), str(seconds), *words_of(source, out)]
    subprocess.run([sys.executable, "-c", KILLED, *words], check=True)


def main() -> int:
    """Print the figures; return 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, sample, size = folder / "source.jsonl", [], 0
        with source.open("w", encoding="utf-8") as stream:
            for text in documents(given.megabytes * 10**6):
                stream.write(json.dumps({"text": text}) + "\n")
                if size < PART:
                    sample.append(text)
                    size += len(text)
        tiny = folder / "tiny.jsonl"
        tiny.write_text("".join(json.dumps({"text": text}) + "\n" for text in sample[:300]))
        start = prepared(tiny, folder / "tiny")
        before = of_tiktoken(sample)
        used = prepared(source, folder / "out")
        after = of_tiktoken(sample)
        index = json.loads((folder / "out" / "index.json").read_text())
        shards = [shard for entries in index["splits"].values() for shard in entries]
        n_tokens = sum(shard["tokens"] for shard in shards)
        rate, steady = n_tokens / used.cpu, n_tokens / (used.cpu - start.cpu)
        reading = used.own_cpu - start.own_cpu
        encoding = used.cpu - start.cpu - reading
        rates = {name: (before[name] + after[name]) / 2 for name in before}
        best = max(rates.values())
        print(f"{given.megabytes} MB, {index['documents']:,} documents, {n_tokens:,} tokens")
        for name, tokens in rates.items():
            print(f"  tiktoken {name:<22} {tokens / 1e6:6.2f}M tokens a CPU second")
        print(
            f"  firstlight prepare              {rate / 1e6:6.2f}M  ({rate / best:.2f} of the best)"
        )
        print(f"  the same without its start       {steady / 1e6:6.2f}M  ({steady / best:.2f})")
        # What two starts differ by is of this size: a shorter text tells nothing.
        busy = f"{encoding / reading:,.0f} cores" if reading > 5 else "(a longer text tells)"
        print(
            f"  reading and writing {reading:,.1f} CPU s, encoding {encoding:,.1f}: one reader keeps"
            f" busy {busy}"
        )
        print(
            f"  wall {used.wall:,.0f} s, CPU {used.cpu:,.0f} s, largest memory"
            f" {used.memory / 1e6:,.0f} MB"
        )
        is_same = True
        if given.kills:
            killed_and_completed(source, folder / "killed", given.kills, used.wall - start.wall)
            is_same = hashes(folder / "out") == hashes(folder / "killed")
            print(f"  killed {given.kills} times: {'the same bytes' if is_same else 'OTHER BYTES'}")
        is_good = steady >= GOAL_OF_TIKTOKEN * best and used.memory < GOAL_MEGABYTES * 1e6
        return 0 if is_good and is_same else 1


if __name__ == "__main__":
    sys.exit(main())
