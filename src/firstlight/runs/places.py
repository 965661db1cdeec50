"""Where a run's files are: its config may name them relative to another working folder."""

import os
from pathlib import Path
from typing import Any

from firstlight.conf_files import config_dir, path_keys
from firstlight.data.files import expanded_path, leads_to, user_path
from firstlight.foreign.hub import GPT2_NAMES
from firstlight.runs.environment import BEGUN_IN, WORKING_FOLDER, working_folder
from firstlight.runs.run_folder import RunFolder

MOVED = "; if the text has moved, say where it is: data.path=..."
"""Ends the message that a run's own text was not found."""


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that contains a checkpoint, or is it; None if there is none."""
    # At most three levels up: RUN/checkpoints/step_N/model.safetensors.
    for folder in (
        checkpoint,
        *checkpoint.absolute().parents[:3],
    ):
        if RunFolder(folder).is_run:
            return folder
    return None


def with_files(config: dict[str, Any], run: Path | None) -> dict[str, Any]:
    """`config` with absolute paths to its text and `init_from` where those are relative.

    They are relative to the folder in which `run` was begun. A run that is not resumed (None)
    begins in the working folder or, as the trial of a sweep, in the one where the sweep was begun.
    Here other files may have those names.
    """
    found: dict[str, Any] = {"data": data_with_files(config["data"], run)}
    source = config.get("init_from")
    if isinstance(source, str):
        found["init_from"] = start_with_place(source, run)
    return config | found


def start_with_place(source: str, run: Path | None) -> str:
    """The value of `init_from`, like `with_files`."""
    if source in GPT2_NAMES:
        return source
    prefix = "hf:" if source.startswith("hf:") else ""
    return prefix + _absolute(source.removeprefix(prefix), run)


def data_with_files(section: dict[str, Any], run: Path | None) -> dict[str, Any]:
    """The section `data` of a run's config, like `with_files`; prose is not a path."""
    paths = path_keys(config_dir())
    found = dict(section)
    for key, value in section.items():
        if f"data.{key}" in paths:
            found[key] = _absolute(value, run)
    return found


def is_there(value: Any) -> bool:
    """Whether all paths of a setting lead to something."""
    if isinstance(value, list):
        return all(map(is_there, value))
    return isinstance(value, str) and all(map(leads_to, expanded_path(value)))


def _absolute(value: Any, run: Path | None) -> Any:
    if isinstance(value, list):
        return [_absolute(element, run) for element in value]
    if not isinstance(value, str) or user_path(value).is_absolute():
        return value
    # Early versions did not record it.
    begun_in = (
        os.environ.get(BEGUN_IN) if run is None else RunFolder(run).environment.get(WORKING_FOLDER)
    )
    if not isinstance(begun_in, str) or begun_in in ("", working_folder()):
        return value
    # Only if something is there: the folder may be gone, and the text be in this one.
    path = str(Path(begun_in, value))
    return path if is_there(path) else value
