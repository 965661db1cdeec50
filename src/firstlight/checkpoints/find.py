"""The checkpoints of a run folder, and the newest run."""

import math
import re
from pathlib import Path

from firstlight.checkpoints.manifest import MANIFEST, read_manifest
from firstlight.data.files import is_hidden
from firstlight.errors import ConfigError

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a run folder."""


def checkpoint_name(step: int) -> str:
    """Name of the folder of the checkpoint at `step`."""
    return f"step_{step:08}"


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest last."""
    try:
        folders = [f for f in (run / CHECKPOINTS).iterdir() if re.fullmatch(r"step_\d{8,}", f.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step_")))


def best_of(checkpoints: list[Path]) -> Path:
    """The one with the best score (the first of several), or the newest if none was evaluated."""
    scores = read_scores(checkpoints)
    evaluated = [folder for folder in checkpoints if math.isfinite(scores[folder])]
    return min(evaluated, key=scores.__getitem__, default=checkpoints[-1])


def read_scores(checkpoints: list[Path]) -> dict[Path, float]:
    """Of each, the metric that the newest of them monitors, with its sign such that the lowest is
    the best; inf if it was not evaluated, or cannot be read."""
    newest, scores = None, dict.fromkeys(checkpoints, math.inf)
    for folder in reversed(checkpoints):
        try:
            manifest = read_manifest(folder)
        except ConfigError:
            continue
        newest = newest or manifest
        if newest.monitor in manifest.metrics:
            value = manifest.metrics[newest.monitor]
            scores[folder] = -value if newest.direction == "max" else value
    return scores


def newest_run(root: str = "outputs") -> Path:
    """The run folder below `root` that was written to last.

    Raises:
        ConfigError: there is none.
    """
    file = newest_file(Path(root), f"**/{CHECKPOINTS}/step_*/{MANIFEST}")
    if file is None:
        raise ConfigError(
            f"'last' means the newest run below {root}/, and there is none with a checkpoint yet"
        )
    return file.parents[2]


def newest_file(folder: Path, pattern: str) -> Path | None:
    """The file in `folder` that matches `pattern` and was written last; None if none matches.

    Files in hidden folders do not count: such a folder is not complete yet, or was put aside.
    """
    files = []
    for file in folder.glob(pattern):
        folders = file.relative_to(folder).parts[:-1]
        if not any(is_hidden(name) for name in folders):
            files.append(file)
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
