"""Where the files are that a run was begun with: the paths in its config may be relative to another working folder."""

import os
from pathlib import Path
from typing import Any

from firstlight.data.files import user_path
from firstlight.foreign.hub import GPT2_NAMES
from firstlight.overrides import config_dir, text_keys
from firstlight.runs.run_folder import (
    BEGUN_IN,
    CONFIG,
    ENVIRONMENT,
    WORKING_FOLDER,
    read_record,
    working_folder,
)

MOVED = "; if the text has moved, say where it is: data.path=..."
"""Of a run's own text that is not found."""


def begun_in(run: Path | None) -> Path | None:
    """The working folder in which a run was begun; None: it keeps none (of an earlier version), or is no run.

    Of a run that is yet to begin (None) it is that of the sweep that it is a trial of, if it is one.
    """
    folder = read_record(run / ENVIRONMENT, dict).get(WORKING_FOLDER) if run is not None else os.environ.get(BEGUN_IN)
    return Path(folder) if isinstance(folder, str) and folder else None


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint is in; None if it is in none."""
    folders = (checkpoint, *checkpoint.absolute().parents[:3])  # RUN/checkpoints/step_N/model.safetensors
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def with_files(config: dict[str, Any], run: Path | None) -> dict[str, Any]:
    """The composed `config` of a `run`, resumed or (None) begun, with the paths of its text and of `init_from` that
    lead to something from where it was begun made absolute: here another file may have that name."""
    found: dict[str, Any] = {"data": data_with_files(config["data"], run)}
    if isinstance(config.get("init_from"), str) and config["init_from"] not in GPT2_NAMES:
        source, colon, rest = config["init_from"].partition(":")
        prefix, name = (f"{source}{colon}", rest) if source == "hf" else ("", config["init_from"])
        found["init_from"] = f"{prefix}{_from(name, run)}"
    return config | found


def data_with_files(section: dict[str, Any], run: Path | None) -> dict[str, Any]:
    """The section `data` of the config of a run; see `with_files`. Its paths are those keys that are texts."""
    texts = text_keys(config_dir())

    def found(value: Any) -> Any:
        if isinstance(value, list):
            return [found(element) for element in value]
        return _from(value, run) if isinstance(value, str) else value

    return {key: found(value) if f"data.{key}" in texts else value for key, value in section.items()}


def is_there(value: Any) -> bool:
    """Do all paths of a setting lead to something?"""
    if isinstance(value, list):
        return all(map(is_there, value))
    try:
        return isinstance(value, str) and user_path(value).exists()
    except (OSError, ValueError):  # no name for a file
        return False


def _from(name: str, run: Path | None) -> str:
    folder = begun_in(run)
    if folder is None or str(folder) == working_folder() or user_path(name).is_absolute():
        return name
    return str(folder / name) if is_there(str(folder / name)) else name
