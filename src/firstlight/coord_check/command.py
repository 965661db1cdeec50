"""`firstlight coord-check`: whether steps move wide models as far as narrow ones."""

import csv
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.commands import train
from firstlight.commands.short_run import check_new
from firstlight.coord_check.figure import growth_figure
from firstlight.coord_check.growth import Growth, Measured, growths
from firstlight.coord_check.run import measured
from firstlight.coord_check.settings import CoordSettings
from firstlight.data.files import user_path
from firstlight.errors import RunError, counted, printable, reason_of
from firstlight.files import replace_text, replacing
from firstlight.output import as_json, note, say, write
from firstlight.runs.new_folder import new_folder
from firstlight.runs.run_config import RunConfig
from firstlight.training.memory.allocation import keep_freed_memory

NOTE = (
    "an exponent near 0 is flat: as large, or moved as far, at every width. Of the sizes, those of"
    " logits fall with the width before the first step, as muP wants it. What is flat here is a"
    " sign that learning rates carry over, not that they do: docs/mup.md"
)


def arguments(config: DictConfig) -> tuple[RunConfig, CoordSettings]:
    """The composed config as the config of a run, and the settings of the check.

    Raises:
        ConfigError: it is not valid.
    """
    run, values = train.arguments_with(config, {"coord_check": CoordSettings})
    check_new(run.plain, "coord-check")
    return run, CoordSettings(**values["coord_check"])


def main(config: DictConfig) -> None:
    """Make the check, print its tables, and write its files.

    Raises:
        ConfigError: a run cannot be.
        RunError: one failed, or the files cannot be written.
    """
    keep_freed_memory()  # as train does
    found = checked(config, note)
    write(as_text(found))
    if found["folder"] is not None:
        say(f"files: {printable(found['folder'])}")


def checked(config: DictConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Make the check; its findings as plain data, and the folder of its files (None: none).

    `tell` is called with what has been trained.

    Raises:
        ConfigError: a run cannot be.
        RunError: one failed, or the files cannot be written.
    """
    run, settings = arguments(config)
    # The folder is made first: if that fails, it fails before the work.
    out = (
        nullcontext()
        if settings.out is None
        else new_folder(user_path(settings.out), "coord_check.out")
    )
    with out as folder:
        runs = measured(run, settings, tell)
        of_sizes = growths(runs, "sizes", settings.steps)
        of_moves = growths(runs, "moves", settings.steps)
        found: dict[str, Any] = {
            "name": run.plain["name"],
            "steps": settings.steps,
            "seeds": settings.seeds,
            "sizes": [asdict(growth) for growth in of_sizes],
            "moves": [asdict(growth) for growth in of_moves],
            "runs": [asdict(one) for one in runs],
            "folder": None if folder is None else str(folder),
        }
        if folder is not None:
            _write_files(found, runs, of_sizes, of_moves, folder, settings.picture)
        return found


def as_text(found: dict[str, Any]) -> str:
    """The findings for reading."""
    after = f"after {counted(found['steps'], 'step')}, mean of {counted(found['seeds'], 'seed')}"
    return (
        _table(f"moved since the first step ({after})", found["moves"])
        + "\n"
        + _table(f"size ({after})", found["sizes"])
        + f"note: {NOTE}\n"
    )


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    widest = max(len(row["layer"]) for row in rows)
    heads = "".join(f"{width:>10}" for width in rows[0]["widths"])
    lines = [title, f"{'':<10} {'width':<{widest}} {heads}   width^"]
    for row in rows:
        values = "".join(f"{value:>10.4g}" for value in row["values"])
        first = f"{row['parametrization']:<10} {row['layer']:<{widest}}"
        lines.append(f"{first} {values} {row['exponent']:>+8.2f}")
    return "\n".join(lines) + "\n"


def _write_files(
    found: dict[str, Any],
    runs: list[Measured],
    of_sizes: list[Growth],
    of_moves: list[Growth],
    folder: Path,
    picture: str,
) -> None:
    try:
        with replacing(folder / "coord_check.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["parametrization", "width", "seed", "step", "layer", "size", "moved"])
            writer.writerows(_rows(runs))
        replace_text(folder / "coord_check.json", as_json(found, indent=1) + "\n")
        with replacing(folder / f"coord_check.{picture}", "wb") as file:
            growth_figure(of_moves, of_sizes).savefig(file, dpi=120, format=picture)
    except OSError as error:
        raise RunError(
            f"coord_check.out ({folder}) cannot be written: {reason_of(error)}"
        ) from None


def _rows(runs: list[Measured]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for step, (sizes, moves) in enumerate(zip(run.sizes, run.moves, strict=True)):
            for layer, size in sizes.items():
                first = (run.parametrization, run.width, run.seed, step, layer)
                rows.append((*first, size, moves[layer]))
    return rows
