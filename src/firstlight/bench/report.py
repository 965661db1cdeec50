"""What was measured, as tables and as plain data."""

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.filesize import decimal
from rich.table import Table

from firstlight.bench.ladder import OWN_NAME, Ladder, Suggestion, as_overrides
from firstlight.bench.settings import Settings
from firstlight.errors import shell_word, shorten


@dataclass(frozen=True)
class Own:
    """The config at hand, as it is. `parts` are milliseconds of a step, from `breakdown`; `peak` is in bytes."""

    name: str
    precision: str
    tokens_per_step: int
    tokens_per_second: float
    mfu: float | None
    loss: float
    peak: int
    peak_is_of: str
    parts: dict[str, float]

    def shares(self) -> dict[str, float]:
        """Parts of a step, of the whole."""
        return {name: value / self.parts["step"] for name, value in self.parts.items()}


def machine_table(machine: dict[str, Any]) -> Table:
    table = _table("this machine", "", "")
    table.add_row("device", machine["device"])
    table.add_row("CPU threads", str(machine["threads"]))
    table.add_row("torch", machine["torch"])
    for dtype, rate in machine["flops_per_second"].items():
        used = ", what this config multiplies in" if dtype == machine["training_dtype"] else ""
        table.add_row("matrix product", f"{_rate(rate)} ({dtype}{used})")
    table.add_row("memory", f"{decimal(round(machine['copied_bytes_per_second']))}/s read and written by a copy")
    return table


def own_table(own: Own) -> Table:
    table = _table(f"this config: {own.name}", "", "", "")
    table.add_row("speed", f"{own.tokens_per_second:,.0f} tokens/s", f"steps of {own.tokens_per_step:,} tokens")
    if own.mfu is not None:
        table.add_row("MFU", f"{own.mfu:.1%}", "of the matrix product above")
    table.add_row("peak memory", decimal(own.peak), own.peak_is_of)
    table.add_row("precision", own.precision, "")
    shares = own.shares()
    for name, milliseconds in own.parts.items():
        note = {
            "data": "a batch, and on to the device",
            "optimizer": "clipping included",
            "framework": "the rest: Lightning, our hooks",
            "step": "measured apart from the speed: its marks take time",
        }.get(name, "")
        table.add_row(name, f"{milliseconds:,.2f} ms  {shares[name]:6.1%}", note, end_section=name == "framework")
    return table


def ladder_table(ladder: Ladder) -> Table:
    settings = ladder.settings
    title = (
        f"the ladder: each rung is the one before and its own settings; {settings.rounds} "
        f"round{'s' * (settings.rounds > 1)} of {settings.steps} steps"
    )
    table = _table(title, "rung", "settings", "tokens/s", "spread", "x before", "x plain", "val/loss", "")
    for name in ("tokens/s", "spread", "x before", "x plain", "val/loss"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for row in rows(ladder):
        settings_of = " ".join(row["overrides"])
        if row["problem"]:
            table.add_row(row["rung"], settings_of, "-", "-", "-", "-", "-", shorten(row["problem"], 24))
            continue
        table.add_row(
            row["rung"],
            settings_of,
            f"{row['tokens_per_second']:,.0f}",
            f"{row['spread']:.0%}" if row["spread"] is not None else "-",
            "" if row["over_before"] is None else f"{row['over_before']:.2f}",
            f"{row['over_plain']:.2f}",
            f"{row['loss']:.4f}",
            row["note"],
        )
    return table


def rows(ladder: Ladder) -> list[dict[str, Any]]:
    """A row for every rung, as plain data. What is relative to plain is so to the first rung that could be measured."""
    told, before = [], None
    first = ladder.measured[0] if ladder.measured else None
    for rung in ladder.rungs:
        is_apart = rung.name == OWN_NAME
        row = {
            "rung": rung.name,
            "overrides": as_overrides(rung.added, ladder.config.plain),
            "is_this_config": rung.is_config,
            "problem": rung.problem or None,
        }
        told.append(row)
        if rung.problem:
            continue
        assert first is not None
        notes = [OWN_NAME] if rung.is_config and not is_apart else []
        if rung.compile_seconds is not None:
            notes.append(f"compiled in {rung.compile_seconds:.0f} s")
        if rung.times_batch > 1:
            notes.append(f"after {rung.times_batch} x the tokens")
        row |= {
            "tokens_per_second": rung.rate,
            "tokens_per_second_by_round": rung.rates,
            "spread": rung.spread / rung.rate if len(rung.rates) > 1 else None,
            "over_before": rung.rate / before.rate if before is not None and not is_apart else None,
            "over_plain": rung.rate / first.rate,
            "loss": rung.loss,
            "loss_over_plain": rung.loss / first.loss,
            "compile_seconds": rung.compile_seconds,
            "note": "; ".join(notes),
        }
        before = rung
    return told


def words(suggestion: Suggestion, larger: Suggestion | None, tolerance: float) -> str:
    """What to copy."""
    by = ", by more than the rounds' spread" if len(suggestion.rung.rates) > 1 else " in its one round"
    within = f"fastest{by}, with a loss at most {tolerance:.1%} above plain's"
    if suggestion.rung.is_config:
        lines = [f"{within}: this config; nothing to add"]
    else:
        lines = [
            f"{within}: {suggestion.rung.name}, {suggestion.times:.2f} x this config",
            f"  {' '.join(map(shell_word, suggestion.overrides))}",
        ]
    if larger is not None:
        lines += [
            f"faster still, {larger.times:.2f} x this config, but another training, of more tokens a step "
            "(the learning rate may want to follow):",
            f"  {' '.join(map(shell_word, larger.overrides))}",
        ]
    return "\n".join(lines)


def as_data(
    machine: dict[str, Any], own: Own, ladder: Ladder, suggestion: Suggestion, larger: Suggestion | None
) -> dict[str, Any]:
    """All of it, for other programs."""

    def copied(suggested: Suggestion) -> dict[str, Any]:
        return {"rung": suggested.rung.name, "overrides": suggested.overrides, "over_this_config": suggested.times}

    settings: Settings = ladder.settings
    return {
        "machine": machine,
        "settings": asdict(settings),
        "config": {
            "name": own.name,
            "precision": own.precision,
            "tokens_per_step": own.tokens_per_step,
            "tokens_per_second": own.tokens_per_second,
            "mfu": own.mfu,
            "loss": own.loss,
            "peak_memory_bytes": own.peak,
            "step_milliseconds": own.parts,
        },
        "ladder": rows(ladder),
        "left_out": {step.name: step.left_out for step in ladder.left_out},
        "suggestion": copied(suggestion),
        "larger_batch": copied(larger) if larger is not None else None,
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        table.add_column(column)
    return table


def _rate(flops: float | None) -> str:
    if flops is None:
        return "not to be had"
    unit, name = (1e12, "TFLOP/s") if flops >= 1e12 else (1e9, "GFLOP/s")
    return f"{flops / unit:,.1f} {name}"
