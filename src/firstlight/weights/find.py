"""What a checkpoint or a run may be called on the command line."""

import math
import re
from collections.abc import Callable
from pathlib import Path

from firstlight.data.files import is_hidden, user_path
from firstlight.errors import ConfigError
from firstlight.weights import hub, openai
from firstlight.weights.hub import GPT2_NAMES
from firstlight.weights.huggingface import is_huggingface_folder
from firstlight.weights.manifest import MANIFEST, read_manifest

CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in a run folder."""


def find_checkpoint(name: str, *, best: bool = True, key: str = "checkpoint") -> Path:
    """What `name` means: a checkpoint, a run folder (its best, or its newest), "last" (the newest run), or GPT-2.

    GPT-2 is a folder of Hugging Face's files or OpenAI's, or a name: gpt2, hf:REPO, hf:FOLDER, openai:124M; a folder of
    Hugging Face's may also hold a Qwen3 or a Llama. What a name means is downloaded, once. `key` is the setting that an
    error is about.

    Raises:
        ConfigError: there is none.
    """
    try:
        if downloaded := _published(name):
            return downloaded
    except ConfigError as error:
        raise ConfigError(f"{key} ({name}): {error}") from error
    if "://" in name:
        raise ConfigError(f"{key} ({name}) must be a file or a run folder: download it first")
    path = newest_run() if name == "last" else user_path(name)
    if _is_there(path, Path.is_file):
        return path
    if not _is_there(path, Path.exists):
        raise ConfigError(f"{key} ({name}): there is no such file or run folder")
    if is_huggingface_folder(path) or openai.is_openai_folder(path):
        return path
    if (path / MANIFEST).is_file():
        return path
    saved = checkpoints_of(path)
    if not saved:
        raise ConfigError(f"{key} ({name}) is a folder without a checkpoint ({CHECKPOINTS}/step_*)")
    return best_of(saved) if best else saved[-1]


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
    """The one with the lowest score, of several the first; if none was evaluated the newest."""
    scores = read_scores(checkpoints)
    return min((f for f in checkpoints if math.isfinite(scores[f])), key=lambda f: scores[f], default=checkpoints[-1])


def read_scores(checkpoints: list[Path]) -> dict[Path, float]:
    """The metric that the newest of them monitors, of each; inf if it was not evaluated, or cannot be read."""
    monitor, scores = None, dict.fromkeys(checkpoints, math.inf)
    for folder in reversed(checkpoints):
        try:
            manifest = read_manifest(folder)
        except ConfigError:
            continue
        monitor = monitor or manifest.monitor
        scores[folder] = manifest.metrics.get(monitor, math.inf)
    return scores


def _is_there(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except OSError:  # a name too long for a file
        return False


def _published(name: str) -> Path | None:
    """The folder of a GPT-2 that `name` is the name of, downloaded if need be; None for other names."""
    if name in GPT2_NAMES:
        return hub.download(GPT2_NAMES[name])
    source, _, rest = name.partition(":")
    if source == "openai":
        return openai.download(rest)
    if source == "hf" and not rest:
        raise ConfigError("name a repository or a folder: hf:owner/name, hf:./folder")
    if source == "hf":
        folder = user_path(rest)
        repo, _, revision = rest.partition("@")
        return folder if folder.is_dir() else hub.download(repo, revision or None)
    return None


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
