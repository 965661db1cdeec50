"""Measure starting from a large text: time and memory of the first start and of a second one.

    .venv/bin/python benchmarks/text.py [--megabytes 1000] [--tokenizers bytes gpt2 bpe]
        [--processes 2] [--folder DIR]

The text is made of the stories that come with firstlight, with numbers between the paragraphs. Each
start is a process that reads the text and trains a tiny model for some steps, as `firstlight
train` does; its memory is compared with that of a process that has only imported what it needs.
Memory of its own counts apart from the pages of files that it maps, which all processes share and
which the system takes back when it needs them. With several processes there is a line for each. Linux
only.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import firstlight

TEXTS = Path(firstlight.__file__).parent / "data" / "texts"
GOAL_MEGABYTES = 1000

START = """
import json, os, sys, threading, time
import torch
from firstlight.cli import main
from firstlight import training
import firstlight.training.fit, firstlight.training.callbacks.checkpoint, firstlight.model.gpt
import firstlight.data.text, firstlight.data.tokenizers.bpe

def memory(*fields):
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields)) / 1000

imports, own, mapped = memory("VmRSS"), 0.0, memory("RssFile")
imported_own, imported_mapped, all_mapped, done = memory("RssAnon", "RssShmem"), mapped, mapped, False

def watch():
    global own, all_mapped
    while not done:
        own, all_mapped = max(own, memory("RssAnon", "RssShmem")), max(all_mapped, memory("RssFile"))
        time.sleep(0.02)

watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
read = read_cpu = 0.0
from firstlight.data.token_data import TokenDataModule
setup = TokenDataModule.setup

def timed(self, stage=None):
    global read, read_cpu
    first, first_cpu = time.perf_counter(), time.process_time()
    setup(self, stage)
    read += time.perf_counter() - first
    read_cpu += time.process_time() - first_cpu

TokenDataModule.setup = timed
code = main(sys.argv[1:])
done = True
watcher.join()
result = {
    "rank": int(os.environ.get("LOCAL_RANK", 0)), "code": code, "read": read, "cpu": read_cpu, "all": time.perf_counter() - began,
    "peak": memory("VmHWM") - imports, "own": own - imported_own,
    "mapped": all_mapped - imported_mapped,
}
print("RESULT", json.dumps(result), flush=True)
"""


def write_text(file: Path, n_bytes: int) -> None:
    """Write a text of paragraphs, of which no two are alike."""
    drawn = random.Random(1)
    paragraphs: list[str] = []
    for story in sorted(TEXTS.glob("*.txt")):
        paragraphs += [p for p in story.read_text(encoding="utf-8").split("\n\n") if p.strip()]
    size = 0
    with file.open("w", encoding="utf-8") as stream:
        while size < n_bytes:
            part = f"No. {drawn.randrange(10**9)}\n\n{drawn.choice(paragraphs)}\n\n"
            size += len(part.encode())
            stream.write(part)


def start(folder: Path, tokenizer: str, output: str, *more: str) -> list[dict[str, float]]:
    """Train for some steps in processes of their own; return the figures of each."""
    words = [
        *("train", "data=text", f"data.path={folder / 'text.txt'}", f"tokenizer={tokenizer}"),
        *(
            "model.context_length=64",
            "data.batch_size=2",
            "model.emb_dim=16",
            "model.n_heads=2",
            "model.n_layers=1",
        ),
        *("trainer.max_steps=20", "trainer.eval_every_n_steps=20", "data.eval_batches=2"),
        *("scheduler=constant", "trainer.accelerator=cpu", "~callbacks.plots", "logger=csv"),
        *("callbacks.sample_generation.max_new_tokens=2", f"output_dir={folder / output}", *more),
    ]
    environment = {**os.environ, "FIRSTLIGHT_CACHE_DIR": str(folder / "cache")}
    # A file, as the first process starts the others with the command line that it has.
    script = folder / "start.py"
    script.write_text(START)
    done = subprocess.run(
        [sys.executable, str(script), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    results = [json.loads(line.removeprefix("RESULT ")) for line in lines]
    assert all(result["code"] == 0 for result in results), done.stderr
    return sorted(results, key=lambda result: result["rank"])


def _line(tokenizer: str, which: str, found: dict[str, float]) -> str:
    return (
        f"  {tokenizer:<6} {which:<7} rank {found['rank']}: {found['read']:7.2f} s (CPU"
        f" {found['cpu']:.2f})  peak {found['peak']:6,.0f} MB: its own {found['own']:6,.0f}, mapped"
        f" {found['mapped']:6,.0f}; the whole command {found['all']:6.1f} s"
    )


def main() -> int:
    """Print the figures; return 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tokenizers", nargs="+", default=["bytes", "gpt2", "bpe"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", help="where there is room for the text and its tokens")
    given = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        folder = Path(place)
        write_text(folder / "text.txt", given.megabytes * 10**6)
        time.sleep(3)  # from now on its checksum is remembered
        print(f"{given.megabytes} MB: seconds to the tokens, MB beyond the imports")
        for tokenizer in given.tokenizers:
            for which in ("first", "second"):
                processes = f"trainer.devices={given.processes}"
                for found in start(folder, tokenizer, f"{tokenizer}_{which}", processes):
                    worst = max(worst, found["peak"])
                    print(_line(tokenizer, which, found), flush=True)
    return 0 if worst < GOAL_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
