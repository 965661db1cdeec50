"""`firstlight lr-find`: how the loss of your config answers to a learning rate that rises."""

import csv
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.commands import train
from firstlight.commands.short_run import check_new
from firstlight.data.files import user_path
from firstlight.errors import RunError, printable, reason_of
from firstlight.files import replace_text, replacing
from firstlight.lr_find.curve import Curve, curve_of
from firstlight.lr_find.figure import curve_figure
from firstlight.lr_find.run import watched
from firstlight.lr_find.settings import RangeSettings
from firstlight.output import as_json, say, write
from firstlight.runs.new_folder import new_folder
from firstlight.runs.run_config import RunConfig
from firstlight.training.memory.allocation import keep_freed_memory

ROWS = 20
"""Rows of the table that is shown; the file has one for each step."""
LIMITS = (
    "a test of a few steps says where training becomes unstable, not which rate is the best of a"
    " whole run: compare rates around it with -m optimizer.lr=..., or sweep=lr"
)


def arguments(config: DictConfig) -> tuple[RunConfig, RangeSettings]:
    """The composed config as the config of a run, and the settings of the test.

    Raises:
        ConfigError: it is not valid.
    """
    run, values = train.arguments_with(config, {"lr_find": RangeSettings})
    check_new(run.plain, "lr-find")
    return run, RangeSettings(**values["lr_find"])


def main(config: DictConfig) -> None:
    """Make the test, print its table and its suggestion, and write its files.

    Raises:
        ConfigError: the run cannot be.
        RunError: it failed, or its files cannot be written.
    """
    keep_freed_memory()  # as train does
    found = tested(config)
    write(as_text(found))
    if found["folder"] is not None:
        say(f"files: {printable(found['folder'])}")


def tested(config: DictConfig) -> dict[str, Any]:
    """Make the test; its findings as plain data, and the folder of its files (None: none).

    Raises:
        ConfigError: the run cannot be.
        RunError: it failed, or its files cannot be written.
    """
    run, settings = arguments(config)
    # The folder is made first: if that fails, it fails before the work.
    out = (
        nullcontext()
        if settings.out is None
        else new_folder(user_path(settings.out), "lr_find.out")
    )
    with out as folder:
        watch = watched(run, settings)
        curve = curve_of(watch.rates, watch.losses, has_diverged=watch.has_diverged)
        found: dict[str, Any] = {
            "name": run.plain["name"],
            # An optimizer of one's own may call it otherwise.
            "lr": run.plain["optimizer"].get("lr"),
            "suggestion": curve.steepest,
            "rule": "where the smoothed loss falls fastest",
            **asdict(curve),
            "has_diverged": watch.has_diverged,
            "folder": None if folder is None else str(folder),
        }
        if folder is not None:
            _write_files(found, curve, folder, settings.picture)
        return found


def as_text(found: dict[str, Any]) -> str:
    """The findings for reading."""
    rates, losses, smoothed = found["rates"], found["losses"], found["smoothed"]
    lines = [f"{'learning rate':>13} {'loss':>9} {'smoothed':>9}"]
    every = max(1, len(rates) // ROWS)
    for rate, loss, smooth in list(zip(rates, losses, smoothed, strict=True))[::every]:
        lines.append(f"{rate:>13.2e} {loss:>9.3f} {smooth:>9.3f}")
    if found["has_diverged"] and rates:
        lines.append(f"after {len(rates)} steps, at {rates[-1]:.1e}, the loss had diverged")
    if found["suggestion"] is None:
        lines.append(f"no suggestion: {found['why_none']}")
    else:
        lines.append(f"suggestion: optimizer.lr={found['suggestion']:.1e} ({found['rule']})")
        lines.append(f"a tenth of the rate with the lowest loss: {found['tenth_of_lowest']:.1e}")
    if found["lr"] is not None:
        lines.append(f"the config has optimizer.lr={found['lr']:g}")
    return "\n".join([*lines, f"note: {LIMITS}"]) + "\n"


def _write_files(found: dict[str, Any], curve: Curve, folder: Path, picture: str) -> None:
    try:
        with replacing(folder / "lr_find.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "lr", "loss", "smoothed"])
            rows = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
            writer.writerows([step, *row] for step, row in enumerate(rows, start=1))
        replace_text(folder / "lr_find.json", as_json(found, indent=1) + "\n")
        if curve.rates:
            with replacing(folder / f"lr_find.{picture}", "wb") as file:
                curve_figure(curve, found["lr"]).savefig(file, dpi=120, format=picture)
    except OSError as error:
        raise RunError(f"lr_find.out ({folder}) cannot be written: {reason_of(error)}") from None
