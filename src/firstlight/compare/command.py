"""`firstlight compare`: runs beside each other, and whether what they differ in means anything."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.compare.groups import group_runs
from firstlight.compare.plot import figure_of
from firstlight.compare.report import report_html
from firstlight.compare.result import as_data
from firstlight.compare.runs import find_runs
from firstlight.compare.settings import Settings
from firstlight.compare.table import tables
from firstlight.compare.verdict import judge
from firstlight.config import check_config
from firstlight.console import SafeConsole
from firstlight.data.files import user_path
from firstlight.errors import RunError
from firstlight.files import replace_text, replacing
from firstlight.output import note, say
from firstlight.runs.new_folder import new_folder
from firstlight.sweep.command import storage_as_typed

FILES = ("compare.html", "compare.png", "compare.json")


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as the settings of `firstlight compare`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, Settings)


def compare(settings: Settings, storage: str | None = None) -> dict[str, Any]:
    """What is found of the runs; see `comparison.result`. `storage` is the setting as it was typed.

    Raises:
        ConfigError: there are no such runs, or they cannot be compared.
    """
    groups, twins = group_runs(find_runs(settings.names, storage))
    ranked, notes = judge(groups, settings)
    return as_data(ranked, [*twins, *notes], settings)


def main(config: DictConfig) -> None:
    """Print what is found, and write it down.

    Raises:
        ConfigError: see `compare`; or the folder cannot be written.
    """
    storage = storage_as_typed(config)
    settings = Settings(**arguments(config))
    # It is made before what takes long.
    with nullcontext() if settings.out is None else new_folder(user_path(settings.out), "out") as folder:
        found = compare(settings, storage)
        for text in found["notes"]:  # first: they say how far what follows can be trusted
            note(text)
        console = SafeConsole(width=None if sys.stdout.isatty() else 160)
        for table in tables(found):
            console.print(table)
        if folder is not None:
            say(f"report: {write_files(found, folder)}")


def write_files(found: dict[str, Any], folder: Path) -> Path:
    """Write FILES; return the page.

    Raises:
        RunError: they cannot be written.
    """
    page, picture, data = (folder / name for name in FILES)
    try:
        replace_text(data, json.dumps(found, indent=1) + "\n")
        with replacing(picture, "wb") as file:
            figure_of(found).savefig(file, dpi=120, format="png")
        replace_text(page, report_html(found))
    except OSError as error:
        raise RunError(f"out ({folder}) cannot be written: {error.strerror}") from None
    return page
