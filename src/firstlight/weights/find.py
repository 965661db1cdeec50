"""What a checkpoint or a run may be called on the command line."""

from pathlib import Path

from firstlight.errors import ConfigError

CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in a run folder."""


def find_checkpoint(name: str, *, best: bool = True, key: str = "checkpoint") -> Path:
    """The file that `name` means: a file, a run folder (its best checkpoint, or its last), or "last", the newest run.

    `key` is the setting that an error is about.

    Raises:
        ConfigError: there is none.
    """
    if "://" in name:
        raise ConfigError(f"{key} ({name}) must be a file or a run folder: download it first")
    path = newest_run() if name == "last" else Path(name).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise ConfigError(f"{key} ({name}): there is no such file or run folder")
    files = [path / CHECKPOINTS / f"{which}.ckpt" for which in (("best", "last") if best else ("last",))]
    for file in files:
        if file.is_file():
            return file
    raise ConfigError(f"{key} ({name}) is a folder without {' or '.join(f'{CHECKPOINTS}/{f.name}' for f in files)}")


def newest_run(root: str = "outputs") -> Path:
    """The run folder below `root` that was written to last.

    Raises:
        ConfigError: there is none.
    """
    files = sorted(Path(root).glob(f"**/{CHECKPOINTS}/last.ckpt"), key=lambda f: f.stat().st_mtime)
    if not files:
        raise ConfigError(f"'last' means the newest run below {root}/, and there is none with a checkpoint yet")
    return files[-1].parents[1]
