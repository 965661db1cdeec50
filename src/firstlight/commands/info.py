"""`firstlight info`: what a run's checkpoints, or one checkpoint, hold; no tensor is loaded."""

import json
from typing import Any, Literal

from omegaconf import DictConfig
from rich.filesize import decimal

from firstlight.checkpoints.find import checkpoints_of, newest_run
from firstlight.commands.description import check as check_bytes
from firstlight.commands.description import describe_checkpoint, describe_run
from firstlight.config import NonEmpty, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, printable_lines
from firstlight.output import write
from firstlight.sources import find_checkpoint


def info(
    *, checkpoint: NonEmpty, check: bool = False, tensors: bool = False, format: Literal["text", "json"] = "text"
) -> dict[str, Any]:
    """What is inside; of a run folder the list of its checkpoints, and what the best one holds.

    Raises:
        ConfigError: there is none, it is damaged, or holds code (which is not run).
    """
    run = newest_run() if checkpoint == "last" else user_path(checkpoint)
    found, saved = find_checkpoint(checkpoint), checkpoints_of(run)
    try:
        told = describe_checkpoint(found)
        told["tensors"] = told["tensors"] if tensors else len(told["tensors"])
    except ConfigError as error:
        if not saved:
            raise
        told = {"checkpoint": str(found), "problem": str(error)}  # there are others
    if saved:
        told = {"run": str(run), "checkpoints": describe_run(run), "best": told}
    if check:
        problems, whole = [], []
        for path in saved or [found]:
            try:
                check_bytes(path)
                whole.append(str(path))
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n".join([*problems, *([f"whole: {', '.join(whole)}"] if whole else [])]))
        told["checked"] = f"every byte of {', '.join(whole)} is as it was written"
    return told


def as_text(told: dict[str, Any]) -> str:
    """`told` for reading: a table of a run's checkpoints, then the keys of one."""
    lines = []
    if "checkpoints" in told:
        lines.append(f"{'step':>8} {'tokens':>12} {'val/loss':>9} {'size':>10}  checkpoint")
        for row in told["checkpoints"]:
            if "problem" in row:
                lines.append(row["problem"])
                continue
            loss = row["metrics"].get("val/loss")
            shown = "-" if loss is None else f"{loss:.4f}"
            use = ", ".join(["best"] * row["best"] + ["weights only"] * (not row["resumable"]))
            lines.append(
                f"{row['step']:>8} {row['tokens']:>12,} {shown:>9} {decimal(row['bytes']):>10}  {row['checkpoint']}"
                + (f" ({use})" if use else "")
            )
        lines.append("")
    for key, value in told.get("best", told).items():
        if key == "config":
            lines += [f"{section}: {json.dumps(node)}" for section, node in value.items()]
        elif key == "tensors" and isinstance(value, dict):
            lines += [f"  {name}: {dtype} {tuple(shape)}" for name, (dtype, shape) in value.items()]
        else:
            lines.append(f"{key}: {json.dumps(value) if isinstance(value, dict) else value}")
    lines += [told["checked"]] if "checked" in told else []
    return "\n".join(lines) + "\n"


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
    write(json.dumps(told) + "\n" if plain["format"] == "json" else printable_lines(as_text(told)))
