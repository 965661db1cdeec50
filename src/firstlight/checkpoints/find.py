"""The checkpoints of a run folder, and the newest run."""

import math
import re
from pathlib import Path

from firstlight.checkpoints.manifest import MANIFEST, read_manifest
from firstlight.data.files import is_hidden
from firstlight.errors import ConfigError

CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in a run folder."""


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint at `step`."""
    return f"step_{step:08}"


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest last."""
    try:
        folders = [f for f in (run / CHECKPOINTS).iterdir() if re.fullmatch(r"step_\d{8,}", f.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step_")))


def best_of(checkpoints: list[Path]) -> Path:
    """The one with the best score, of several the first; if none was evaluated the newest."""
    scores = read_scores(checkpoints)
    return min((f for f in checkpoints if math.isfinite(scores[f])), key=lambda f: scores[f], default=checkpoints[-1])


def read_scores(checkpoints: list[Path]) -> dict[Path, float]:
    """The metric that the newest of them monitors, of each, with its sign such that the lowest is the best.

    It is inf of one that was not evaluated, or cannot be read.
    """
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
        raise ConfigError(f"'last' means the newest run below {root}/, and there is none with a checkpoint yet")
    return file.parents[2]


def newest_file(folder: Path, pattern: str) -> Path | None:
    """The file in `folder` that was written last, of those that fit `pattern`; None if none does.

    What is in a hidden folder is left out: it is not made yet, or was put aside.
    """
    files = [file for file in folder.glob(pattern) if not any(map(is_hidden, file.relative_to(folder).parts[:-1]))]
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
