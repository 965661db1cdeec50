"""The checkpoints of a run folder, and the newest run."""

import math
import re
from pathlib import Path

from firstlight.checkpoints.manifest import MANIFEST, read_manifest
from firstlight.data.files import is_hidden, user_path
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
    # As numbers: from step 100,000,000 on the names have more digits.
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step_")))


def best_of(checkpoints: list[Path]) -> Path:
    """The one with the best score (the first of several), or the newest if none was evaluated."""
    scores = read_scores(checkpoints)
    evaluated = [folder for folder in checkpoints if math.isfinite(scores[folder])]
    return min(evaluated, key=scores.__getitem__, default=checkpoints[-1])


def read_scores(checkpoints: list[Path]) -> dict[Path, float]:
    """Score each checkpoint by the metric that the newest monitors; the lowest is the best.

    A metric for which higher is better has its sign changed. inf if there was no evaluation, or
    the checkpoint cannot be read.
    """
    # By the newest's monitor: a resumed run may monitor another metric than it began with.
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


def newest_run() -> Path:
    """The run folder below `outputs` that was written to last.

    Raises:
        ConfigError: no run has a checkpoint.
    """
    return newest_folder(f"{CHECKPOINTS}/step_*/{MANIFEST}", "run with a checkpoint")


def run_named(name: str) -> Path:
    """The place that a user means by the `name` of a run: "last" is `newest_run`."""
    return newest_run() if name == "last" else user_path(name)


def newest_folder(mark: str, kind: str) -> Path:
    """The folder below `outputs` whose `mark` was written last.

    `mark` is a pattern for the file that tells such folders, relative to them; `kind` is what they
    are, for the message.

    Raises:
        ConfigError: no such folder was found.
    """
    root, depth = Path("outputs"), len(Path(mark).parts)
    folders: dict[Path, float] = {}
    for file in root.glob(f"**/{mark}"):
        # A hidden folder is not complete yet, or was put aside.
        if not any(is_hidden(name) for name in file.relative_to(root).parts[:-1]):
            folders[file] = file.stat().st_mtime
    if not folders:
        raise ConfigError(f"last: no {kind} found below {root}/; give its folder instead")
    return max(folders, key=folders.__getitem__).parents[depth - 1]
