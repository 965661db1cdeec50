"""`firstlight info`: describe a run's checkpoints, or one checkpoint, without loading a tensor."""

import json
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from rich.filesize import decimal

from firstlight.checkpoints.find import checkpoints_of, run_named
from firstlight.commands.description import check_checkpoint, describe_checkpoint, describe_run
from firstlight.config import NonEmpty, check_config
from firstlight.errors import ConfigError, printable_lines
from firstlight.output import as_json, write
from firstlight.sources import find_checkpoint


def info(
    *,
    checkpoint: NonEmpty,
    check: bool = False,
    tensors: bool = False,
    format: Literal["text", "json"] = "text",
) -> dict[str, Any]:
    """Describe a checkpoint, or the checkpoints of a run folder and the best one in detail.

    Raises:
        ConfigError: it does not exist, is damaged, or holds code (which is not run).
    """
    run = run_named(checkpoint)
    found, saved = find_checkpoint(checkpoint), checkpoints_of(run)
    try:
        told = describe_checkpoint(found)
        if not tensors:
            told["tensors"] = len(told["tensors"])
    except ConfigError as error:
        if not saved:
            raise
        # The other checkpoints of the run may be whole.
        told = {"checkpoint": str(found), "problem": str(error)}
    if saved:
        told = {"run": str(run), "checkpoints": describe_run(run), "best": told}
    if check:
        told["checked"] = _checked(saved or [found])
    return told


def _checked(paths: list[Path]) -> str:
    """Read every byte of the checkpoints; say that all are whole.

    Raises:
        ConfigError: some are not; the message lists the problems, then those that are whole.
    """
    # All are read even after a damaged one: which ones are whole is what the user must know.
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
    """Write `told` for reading: a table of a run's checkpoints, then the keys of one checkpoint."""
    lines = []
    if "checkpoints" in told:
        lines.append(f"{'step':>8} {'tokens':>12} {'val/loss':>9} {'size':>10}  checkpoint")
        lines += map(_row, told["checkpoints"])
        lines.append("")
    # Of a run its best checkpoint, otherwise the one that was asked for.
    for key, value in told.get("best", told).items():
        if key == "config":
            lines += [f"{section}: {json.dumps(node)}" for section, node in value.items()]
        elif key == "tensors" and isinstance(value, dict):  # by name; otherwise their number
            lines += [f"  {name}: {dtype} {tuple(shape)}" for name, (dtype, shape) in value.items()]
        elif isinstance(value, dict):
            lines.append(f"{key}: {json.dumps(value)}")
        else:
            lines.append(f"{key}: {value}")
    if "checked" in told:
        lines.append(told["checked"])
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> str:
    """The line of one checkpoint in the table of a run."""
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
    """Check the composed config as arguments of `info`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, info)


def main(config: DictConfig) -> None:
    """Print the description, for reading or as one JSON object."""
    plain = arguments(config)
    told = info(**plain)
    if plain["format"] == "json":
        write(as_json(told) + "\n")
    else:
        write(printable_lines(as_text(told)))
