"""What was measured, as tables, as advice and as plain data."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.filesize import decimal
from rich.table import Table

from firstlight.bench.ladder import OWN_NAME, Ladder, Suggestion, as_overrides
from firstlight.errors import counted, shell_word, shorten

NOTES = {
    "data": "a batch, and its way to the device",
    "optimizer": "clipping included",
    "framework": "the rest: Lightning, our hooks",
    "step": "measured apart from the speed: timing the parts takes time",
}
"""Explanations of the parts of a step, for the table."""


@dataclass(frozen=True)
class OwnSpeed:
    """What was measured of the user's config, unchanged.

    `step_milliseconds` is from `Timing.breakdown`.
    """

    name: str
    precision: str
    tokens_per_step: int
    tokens_per_second: float
    mfu: float | None
    loss: float
    peak_memory_bytes: int
    step_milliseconds: dict[str, float]


def machine_table(machine: dict[str, Any]) -> Table:
    table = _table("this machine", "", "")
    table.add_row("device", machine["device"])
    table.add_row("CPU threads", str(machine["threads"]))
    table.add_row("torch", machine["torch"])
    for dtype, rate in machine["flops_per_second"].items():
        used = ", what this config multiplies in" if dtype == machine["training_dtype"] else ""
        table.add_row("matrix product", f"{_rate(rate)} ({dtype}{used})")
    table.add_row(
        "memory",
        f"{decimal(round(machine['copied_bytes_per_second']))}/s read and written by a copy",
    )
    return table


def own_table(own: OwnSpeed, device: torch.device) -> Table:
    table = _table(f"this config: {own.name}", "", "", "")
    table.add_row(
        "speed",
        f"{own.tokens_per_second:,.0f} tokens/s",
        f"steps of {own.tokens_per_step:,} tokens",
    )
    if own.mfu is not None:
        table.add_row("MFU", f"{own.mfu:.1%}", "of the matrix product above")
    # A CPU has no counter of its own for torch's memory: that of the process is all there is.
    owner = "of the process, with Python and torch"
    if device.type == "cuda":
        owner = "of the GPU's"
    table.add_row("peak memory", decimal(own.peak_memory_bytes), owner)
    table.add_row("precision", own.precision, "")
    # Parts are shown relative to the step that they are parts of, which is not the step of the
    # speed above: timing the parts takes time.
    whole = own.step_milliseconds["step"]
    for name, part in own.step_milliseconds.items():
        shown = f"{part:,.2f} ms  {part / whole:6.1%}"
        table.add_row(name, shown, NOTES.get(name, ""), end_section=name == "framework")
    return table


def ladder_table(ladder: Ladder) -> Table:
    settings = ladder.settings
    title = (
        "the ladder: each rung is the one before and its own settings;"
        f" {counted(settings.rounds, 'round')} of {counted(settings.steps, 'step')}"
    )
    table = _table(title, "rung", "settings")
    for name in ("tokens/s", "spread", "x before", "x plain", "val/loss"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows(ladder):
        overrides = " ".join(row["overrides"])
        # Shortened in the table; the whole line follows below it (bench/command.py).
        if row["problem"]:
            table.add_row(
                row["rung"], overrides, "-", "-", "-", "-", "-", shorten(row["problem"], 24)
            )
            continue
        table.add_row(
            row["rung"],
            overrides,
            f"{row['tokens_per_second']:,.0f}",
            "-" if row["spread"] is None else f"{row['spread']:.0%}",
            "" if row["over_before"] is None else f"{row['over_before']:.2f}",
            f"{row['over_plain']:.2f}",
            f"{row['loss']:.4f}",
            row["note"],
        )
    return table


def rows(ladder: Ladder) -> list[dict[str, Any]]:
    """A row for each rung, as plain data; "plain" means the first rung that was measured."""
    told: list[dict[str, Any]] = []
    # Ratios are to the rung before, and to the first one; rungs that failed are skipped.
    first = before = None
    for rung in ladder.rungs:
        row: dict[str, Any] = {
            "rung": rung.name,
            "overrides": as_overrides(rung.added, ladder.config.plain),
            "is_this_config": rung.is_config,
            "problem": rung.problem or None,
        }
        told.append(row)
        if rung.problem:
            continue
        first = first or rung
        is_apart = rung.name == OWN_NAME  # it is not built on the rung before
        notes = []
        if rung.is_config and not is_apart:
            notes.append(OWN_NAME)
        if rung.compile_seconds is not None:
            notes.append(f"compiled in {rung.compile_seconds:.0f} s")
        if rung.times_batch > 1:
            notes.append(f"after {rung.times_batch} x the tokens")
        row |= {
            "tokens_per_second": rung.rate,
            "tokens_per_second_by_round": rung.rates,
            "spread": rung.spread / rung.rate if len(rung.rates) > 1 else None,
            "over_before": None if before is None or is_apart else rung.rate / before.rate,
            "over_plain": rung.rate / first.rate,
            "loss": rung.loss,
            "loss_over_plain": rung.loss / first.loss,
            "compile_seconds": rung.compile_seconds,
            "note": "; ".join(notes),
        }
        before = rung
    return told


def advice(suggestion: Suggestion, larger: Suggestion | None, tolerance: float) -> str:
    """What to add to the command line, in words."""
    # How sure the word "fastest" is must be in the same sentence.
    by = " in its one round"
    if len(suggestion.rung.rates) > 1:
        by = ", by more than the rounds' spread"
    within = f"fastest{by}, with a loss at most {tolerance:.1%} above plain's"
    if suggestion.rung.is_config:
        lines = [f"{within}: this config; nothing to add"]
    else:
        lines = [
            f"{within}: {suggestion.rung.name}, {suggestion.times:.2f} x this config",
            _to_paste(suggestion),
        ]
    if larger is not None:
        lines += [
            (
                f"faster still, {larger.times:.2f} x this config, but another training, with more"
                " tokens per step (consider another learning rate):"
            ),
            _to_paste(larger),
        ]
    return "\n".join(lines)


def _to_paste(suggestion: Suggestion) -> str:
    return f"  {' '.join(map(shell_word, suggestion.overrides))}"


def findings_data(
    machine: dict[str, Any],
    own: OwnSpeed,
    ladder: Ladder,
    suggestion: Suggestion,
    larger: Suggestion | None,
) -> dict[str, Any]:
    """All findings as plain data, for other programs."""

    def suggested(which: Suggestion) -> dict[str, Any]:
        # The same rows as in the table, so that a program can read what a person sees.
        return {
            "rung": which.rung.name,
            "overrides": which.overrides,
            "over_this_config": which.times,
        }

    return {
        "machine": machine,
        "settings": asdict(ladder.settings),
        "config": asdict(own),
        "ladder": rows(ladder),
        "left_out": {step.name: step.left_out for step in ladder.left_out},
        "suggestion": suggested(suggestion),
        "larger_batch": None if larger is None else suggested(larger),
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
    )
    for column in columns:
        table.add_column(column)
    return table


def _rate(flops: float | None) -> str:
    if flops is None:
        return "not available"
    if flops >= 1e12:
        return f"{flops / 1e12:,.1f} TFLOP/s"
    return f"{flops / 1e9:,.1f} GFLOP/s"
