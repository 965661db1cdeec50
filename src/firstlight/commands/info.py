"""`firstlight info`: what a run's checkpoints, or one checkpoint, hold; no tensor is loaded."""

import json
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from rich.filesize import decimal

from firstlight.checkpoints.find import checkpoints_of, newest_run
from firstlight.commands.description import check_checkpoint, describe_checkpoint, describe_run
from firstlight.config import NonEmpty, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, printable_lines
from firstlight.output import write
from firstlight.sources import find_checkpoint


def info(
    *,
    checkpoint: NonEmpty,
    check: bool = False,
    tensors: bool = False,
    format: Literal["text", "json"] = "text",
) -> dict[str, Any]:
    """What is inside; for a run folder the list of its checkpoints, and what the best one holds.

    Raises:
        ConfigError: there is none, it is damaged, or holds code (which is not run).
    """
    run = newest_run() if checkpoint == "last" else user_path(checkpoint)
    found, saved = find_checkpoint(checkpoint), checkpoints_of(run)
    try:
        told = describe_checkpoint(found)
        if not tensors:
            told["tensors"] = len(told["tensors"])
    except ConfigError as error:
        if not saved:
            raise
        told = {
            "checkpoint": str(found),
            "problem": str(error),
        }  # the other checkpoints may be whole
    if saved:
        told = {"run": str(run), "checkpoints": describe_run(run), "best": told}
    if check:
        told["checked"] = _checked(saved or [found])
    return told


def _checked(paths: list[Path]) -> str:
    """Say that all checkpoints are whole.

    Raises:
        ConfigError: some are not; the message lists the problems, then those that are whole.
    """
    problems, whole = [], []
    for path in paths:
        try:
            check_checkpoint(path)
            whole.append(str(path))
        except ConfigError as error:
            problems.append(str(error))
    if problems and whole:
        problems.append(f"whole: {', '.join(whole)}")
    if problems:
        raise ConfigError("\n".join(problems))
    return f"every byte of {', '.join(whole)} is as it was written"


def as_text(told: dict[str, Any]) -> str:
    """`told` for reading: a table of a run's checkpoints, then the keys of one."""
    lines = []
    if "checkpoints" in told:
        lines.append(f"{'step':>8} {'tokens':>12} {'val/loss':>9} {'size':>10}  checkpoint")
        lines += map(_row, told["checkpoints"])
        lines.append("")
    for key, value in told.get("best", told).items():
        if key == "config":
            lines += [f"{section}: {json.dumps(node)}" for section, node in value.items()]
        elif key == "tensors" and isinstance(value, dict):
            lines += [f"  {name}: {dtype} {tuple(shape)}" for name, (dtype, shape) in value.items()]
        else:
            lines.append(f"{key}: {json.dumps(value) if isinstance(value, dict) else value}")
    if "checked" in told:
        lines.append(told["checked"])
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> str:
    if "problem" in row:
        return row["problem"]
    loss = "-"
    if row["metrics"].get("val/loss") is not None:
        loss = f"{row['metrics']['val/loss']:.4f}"
    remarks = []
    if row["best"]:
        remarks.append("best")
    if not row["resumable"]:
        remarks.append("weights only")
    text = (
        f"{row['step']:>8} {row['tokens']:>12,} {loss:>9} {decimal(row['bytes']):>10} "
        f" {row['checkpoint']}"
    )
    return f"{text} ({', '.join(remarks)})" if remarks else text


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as arguments of `info`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, info)


def main(config: DictConfig) -> None:
    """Print what is inside."""
    plain = arguments(config)
    told = info(**plain)
    if plain["format"] == "json":
        write(json.dumps(told) + "\n")
    else:
        write(printable_lines(as_text(told)))
