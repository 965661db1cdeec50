"""Measure training on one GPU: a table, row by row, of firstlight, nanoGPT and transformers.

Each row is a process of its own, with a time limit; one that fails is told with its last line, and
the next begins. Rows come in the order of their weight, and none begins that the budget has no time
for. All train the same sizes in bf16 with dropout 0, on the same number of windows, with AdamW and
clipping; firstlight is its own `fit`, with Lightning, hooks and the checks of every step. MFU is
relative to the rate of the fastest matrix product that this card itself reached, in the first row.
It counts 6 operations for each matrix weight and token, and 12 * layers * width * context for
attention (Chowdhery et al. 2022, appendix B).
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from options import described, nanogpt_clone, positive

LEAST = 20
"""Seconds without which no further row begins."""
GOAL_MFU, GOAL_TIMES = 0.55, 1.25
ROWS_FILE = Path(__file__).with_name("gpu_rows.py")


@dataclass(frozen=True)
class Row:
    """A measurement in a process of its own: a function of gpu_rows.py, and its arguments."""

    name: str
    what: str
    words: tuple[str, ...] = ()
    seconds: int = 100
    """Most that it may take."""


def training_row(contender: str, size: str, how: str, seconds: int = 100) -> Row:
    words = (
        "--contender",
        contender,
        "--size",
        size,
        *(["--compile"] if how == "compiled" else []),
    )
    return Row(f"{contender} {size} {how}", "training", words, seconds)


ROWS = [
    Row("card", "card", seconds=60),
    training_row("firstlight", "124M", "compiled"),
    training_row("nanoGPT", "124M", "compiled"),
    Row("kill and resume", "resume", seconds=110),
    training_row("firstlight", "124M", "eager", 60),
    training_row("transformers", "124M", "eager", 60),
    Row("generation", "generation", seconds=60),
    training_row("firstlight", "350M", "compiled", 120),
    training_row("nanoGPT", "350M", "compiled", 120),
    training_row("firstlight", "350M", "eager", 60),
    training_row("transformers", "350M", "eager", 60),
]


def measure(row: Row, args: argparse.Namespace, limit: float) -> dict[str, Any]:
    """The figures of a row, or {"problem": why there are none}."""
    command = [sys.executable, "-W", "ignore", str(ROWS_FILE), row.what, *row.words]
    command += ["--out", str(args.out)]
    if args.rehearse:
        command.append("--rehearse")
    if args.nanogpt:
        command += ["--nanogpt", str(args.nanogpt)]
    with (args.out / "gpu.log").open("a") as log:
        log.write(f"=== {row.name}: {' '.join(command)}\n")
        log.flush()
        # A session of its own: what a row has started ends with it.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            told, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return {"problem": f"not done within {limit:.0f} s"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        log.write(told)
    lines = told.strip().splitlines()
    if process.returncode == 0 and lines:
        return json.loads(lines[-1])
    last = (args.out / "gpu.log").read_text().strip().splitlines()[-1]
    return {"problem": f"failed ({process.returncode}): {last[:300]}"}


def with_mfu(found: dict[str, Any], rate: float | None) -> dict[str, Any]:
    if rate and "flops_per_token" in found:
        found["mfu"] = found["tokens_per_second"] * found["flops_per_token"] / rate
    return found


def line_of(name: str, found: dict[str, Any]) -> str:
    """What is printed of a row once it is measured."""
    if "problem" in found:
        return f"{name:<28} {found['problem']}"
    if "tokens_per_second" not in found:
        told = ", ".join(f"{key} {shown(value)}" for key, value in found.items())
        return f"{name:<28} {told}"
    cells = " ".join(f"{cell:>12}" for cell in cells_of(found))
    return f"{name:<28} {cells}"


HEADS = ("tokens/s", "MFU", "ms a step", "peak GB", "syncs a step", "loader", "windows")


def cells_of(found: dict[str, Any]) -> list[str]:
    mfu, loader, syncs = found.get("mfu"), found.get("loader_share"), found.get("syncs_per_step")
    return [
        f"{found['tokens_per_second']:,.0f}",
        f"{mfu:.1%}" if mfu is not None else "",
        f"{found['step_ms']:,.1f}",
        f"{found['peak_gigabytes']:.1f}",
        f"{syncs:g}" if syncs is not None else "",
        f"{loader:.2%}" if loader is not None else "",
        str(found["windows"]),
    ]


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdicts(found: dict[str, dict[str, Any]]) -> list[str]:
    """Which of the goals were reached, for each size."""
    lines: list[str] = []
    for size in ("124M", "350M"):
        ours = found.get(f"firstlight {size} compiled", {})
        theirs = found.get(f"nanoGPT {size} compiled", {})
        if "mfu" in ours:
            held = "reached" if ours["mfu"] >= GOAL_MFU else "NOT reached"
            lines.append(f"{size}: MFU {ours['mfu']:.1%}; goal {GOAL_MFU:.0%}: {held}")
        if "tokens_per_second" in ours and "tokens_per_second" in theirs:
            times = ours["tokens_per_second"] / theirs["tokens_per_second"]
            held = "reached" if times >= GOAL_TIMES else "NOT reached"
            lines.append(f"{size}: {times:.2f} times nanoGPT; goal {GOAL_TIMES}: {held}")
    return lines


def write(args: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """Both files, after each row: a machine that is taken away has left what there was."""
    (args.out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    card = found.get("card", {})
    lines = [
        f"{card.get('device', 'unknown device')}, torch {card.get('torch', '?')}: bf16 products at"
        f" {shown(card.get('bf16_tflops', math.nan))} TFLOP/s (measured)",
        "",
        f"| | {' | '.join(HEADS)} |",
        f"|---|{'---|' * len(HEADS)}",
    ]
    if args.rehearse:
        lines.insert(0, "A rehearsal with tiny models: its figures say nothing of a GPU.\n")
    others: list[str] = []
    for name, figures in found.items():
        if "tokens_per_second" in figures:
            lines.append(f"| {name} | {' | '.join(cells_of(figures))} |")
        else:
            others.append(f"- {line_of(name, figures)}")
    text = "\n".join([*lines, "", *others, "", *(f"- {line}" for line in verdicts(found))])
    (args.out / "gpu.md").write_text(text + "\n")


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--nanogpt", type=nanogpt_clone, help="a clone of nanoGPT")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny models")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    parser.add_argument("--budget", type=positive, default=465, help="seconds for all rows")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="rows with one of these words")
    args = parser.parse_args()
    args.out = args.out or Path(os.environ.get("OUT") or "outputs/gpu")
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.log").write_text("")
    began, found = time.monotonic(), {}
    print(f"{'':<28} {' '.join(f'{head:>12}' for head in HEADS)}")
    for row in ROWS:
        # Without the card's own rate there is no MFU.
        if args.only and row.what != "card" and not any(w in row.name for w in args.only):
            continue
        left = max(args.budget - (time.monotonic() - began), 0.0)
        if row.name.startswith("nanoGPT") and not args.nanogpt:
            figures = {"problem": "left out: give --nanogpt DIR"}
        elif left < LEAST:
            figures = {"problem": f"left out: {left:.0f} s are left of the budget"}
        else:
            # A CPU that compiles, maybe beside other work, may be slower than a machine with a GPU.
            most = row.seconds * (5 if args.rehearse else 1)
            figures = measure(row, args, min(left, most))
        rate = found.get("card", {}).get("bf16_tflops")
        found[row.name] = with_mfu(figures, rate and rate * 1e12)
        print(line_of(row.name, figures), flush=True)
        write(args, found)
    if args.rehearse:
        print("a rehearsal with tiny models: its figures say nothing of a GPU")
    for line in verdicts(found):
        print(line)
    print(f"{time.monotonic() - began:.0f} s; {args.out / 'gpu.md'}, gpu.json, gpu.log")


if __name__ == "__main__":
    main()
