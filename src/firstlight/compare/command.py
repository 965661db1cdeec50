"""`firstlight compare`: runs beside each other, and whether their differences mean anything."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.compare.equal_tokens import at_equal_tokens
from firstlight.compare.groups import group_runs
from firstlight.compare.page import comparison_page
from firstlight.compare.plot import comparison_figure
from firstlight.compare.result import comparison_data
from firstlight.compare.runs import find_runs
from firstlight.compare.settings import CompareSettings
from firstlight.compare.table import tables
from firstlight.compare.verdict import judge
from firstlight.config import check_config
from firstlight.console import SafeConsole
from firstlight.data.files import user_path
from firstlight.errors import RunError
from firstlight.files import replace_text, replacing
from firstlight.output import as_json, note, say
from firstlight.runs.new_folder import new_folder
from firstlight.sweep.command import storage_as_typed


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as the settings of `firstlight compare`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, CompareSettings)


def compare(settings: CompareSettings, storage: str | None = None) -> dict[str, Any]:
    """The findings, see `compare.result`. `storage` is the setting as it was typed.

    Raises:
        ConfigError: a run does not exist, or they cannot be compared.
    """
    runs, told = find_runs(settings.names, storage), []
    if settings.at == "equal_tokens":
        runs, told = at_equal_tokens(runs, settings.metric)
    groups, twins = group_runs(runs)
    judged, notes = judge(groups, settings)
    return comparison_data(judged, told + twins + notes, settings)


def main(config: DictConfig) -> None:
    """Print the findings, and write them to a new folder.

    Raises:
        ConfigError: see `compare`; or the folder cannot be written.
    """
    _, page = compared(config, show)
    if page is not None:
        say(f"report: {page}")


def compared(
    config: DictConfig, show: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], Path | None]:
    """The findings, and their page, if `out` names a folder for it.

    `show` is called with the findings before they are written.

    Raises:
        ConfigError: see `compare`; or the folder cannot be made.
        RunError: it cannot be written.
    """
    storage = storage_as_typed(config)
    settings = CompareSettings(**arguments(config))
    # The folder is made first: if that fails, it fails before the long work.
    out = nullcontext() if settings.out is None else new_folder(user_path(settings.out), "out")
    with out as folder:
        found = compare(settings, storage)
        show(found)
        return found, None if folder is None else write_files(found, folder)


def show(found: dict[str, Any]) -> None:
    """Print the notes and the tables."""
    # Notes come before the tables, as they say how far these can be trusted.
    for text in found["notes"]:
        note(text)
    # rich would take 80 columns for a file.
    console = SafeConsole(width=None if sys.stdout.isatty() else 160)
    for table in tables(found, console.width):
        console.print(table)


def write_files(found: dict[str, Any], folder: Path) -> Path:
    """Write compare.json, compare.png and compare.html; return the last one.

    Raises:
        RunError: they cannot be written.
    """
    page = folder / "compare.html"
    try:
        replace_text(folder / "compare.json", as_json(found, indent=1) + "\n")
        with replacing(folder / "compare.png", "wb") as file:
            comparison_figure(found).savefig(file, dpi=120, format="png")
        replace_text(page, comparison_page(found))
    except OSError as error:
        raise RunError(f"out ({folder}) cannot be written: {error.strerror}") from None
    return page
