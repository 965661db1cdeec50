"""One run, one folder: made once, never shared, with everything that says what the run was."""

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import Timeout

from firstlight import processes
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.files import check_links, locked, replace_text
from firstlight.training.plain_yaml import read_plain_yaml

LOCK = ".lock"
CONFIG = Path(".hydra") / "config.yaml"
OVERRIDES = Path(".hydra") / "overrides.yaml"
ENVIRONMENT = "environment.json"
LINKS_OF_WANDB = "wandb/*run-*/logs/*"
"""wandb links to a log of its own service here. A run that is resumed has another folder there."""
WORKING_FOLDER = "working_folder"
"""In ENVIRONMENT: the folder that relative paths in CONFIG are from."""
BEGUN_IN = "FIRSTLIGHT_BEGUN_IN"
"""Environment variable: that folder, for the trials of a sweep, which may be resumed from another one."""


def create_run_folder(wanted: Path, *, config: dict[str, Any], overrides: list[str]) -> Path:
    """Take the folder `wanted`, or `wanted_2`, `wanted_3`, ...: the first that is new, or empty (a sweep makes those).

    The composed config, the overrides and the environment are kept in it, under Hydra's usual names.

    Raises:
        ConfigError: it cannot be made or written.
    """
    for folder in numbered(wanted):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                (folder / CONFIG).parent.mkdir(exist_ok=False)  # of two runs that find it empty, one gets it
                _write_config(folder, config, overrides)
                return folder
        except FileExistsError:
            if folder.is_file():
                raise ConfigError(f"output_dir ({shorten(str(wanted))}) is a file; give output_dir=...") from None
        except OSError as error:
            raise ConfigError(
                f"output_dir ({shorten(str(wanted))}) cannot be made: {error.strerror}; give output_dir=..."
            ) from None
    raise AssertionError


def numbered(wanted: Path) -> Iterator[Path]:
    """`wanted`, `wanted_2`, `wanted_3`, ...: where a new folder may be made, if those before are taken.

    Raises:
        ConfigError: `wanted` is no name for a folder.
    """
    if wanted.name in ("", ".."):
        raise ConfigError(f"output_dir ({wanted}) must name a folder that can be made")
    yield wanted
    for number in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}_{number}")


def new_folder(wanted: Path, key: str) -> Path:
    """The folder `wanted`, or `wanted_2`, ...: the first that is new or empty, made. `key` is the setting it is from.

    Raises:
        ConfigError: it cannot be made.
    """
    for folder in numbered(wanted):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                return folder
        except FileExistsError:
            raise ConfigError(f"{key} ({shorten(str(wanted))}) is a file; give {key}=...") from None
        except OSError as error:
            raise ConfigError(
                f"{key} ({shorten(str(wanted))}) cannot be made: {error.strerror}; give {key}=..."
            ) from None
    raise AssertionError  # numbers do not end


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the run folder: of two processes one is refused. The system frees what a process held when it dies.

    Raises:
        ConfigError: this is no run, another process writes it, or nothing can be written here.
    """
    try:
        is_run = (folder / CONFIG).is_file()
    except OSError as error:  # no name for a folder
        raise ConfigError(f"resume ({shorten(str(folder))}): no run folder ({error.strerror})") from None
    if not is_run:
        raise ConfigError(f"resume ({shorten(str(folder))}): no run folder, it has no {CONFIG}")
    check_links(folder, LINKS_OF_WANDB)
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / LOCK))
        except Timeout:
            raise ConfigError(f"{folder}: another process is writing this run; wait for its end, or stop it") from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None
        held.enter_context(processes.sharing(folder))
        yield


def _write_config(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    replace_text(folder / OVERRIDES, _yaml(overrides))
    replace_text(folder / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
    replace_text(folder / CONFIG, _yaml(config))  # last: a folder that has it has all


def _yaml(node: Any) -> str:
    return yaml.safe_dump(node, sort_keys=False, allow_unicode=True)


def update_run_folder(folder: Path, *, config: dict[str, Any], overrides: list[str]) -> dict[str, tuple[str, str]]:
    """Note in the folder of a continued run what it is continued with; return the versions that have changed.

    Raises:
        ConfigError: its records are not what firstlight writes; nothing has been written then.
    """
    kept, was, now = read_record(folder / OVERRIDES, list), read_record(folder / ENVIRONMENT, dict), environment()
    try:
        replace_text(folder / CONFIG, _yaml(config))
        replace_text(folder / OVERRIDES, _yaml([*kept, *overrides]))
    except OSError as error:
        raise ConfigError(f"resume ({folder}): cannot be written ({error.strerror})") from None
    names = ("python", "firstlight", "torch", "lightning", "cpu_threads", "cpu_capability", "cuda_device")
    return {name: (shorten(str(was[name])), str(now[name])) for name in names if name in was and was[name] != now[name]}


def note_data(folder: Path, data: dict[str, Any]) -> None:
    """Keep `data` as the section of that name in the config of a run: its text has moved.

    Raises:
        ConfigError: another process is writing the run, or it cannot be written.
    """
    with only_writer(folder):
        try:
            replace_text(folder / CONFIG, _yaml(read_config(folder) | {"data": data}))
        except OSError as error:
            raise ConfigError(f"resume ({folder}): cannot be written ({error.strerror})") from None


def read_record(file: Path, kind: type[Any]) -> Any:
    """What is kept in a file of a run (JSON is YAML, too); nothing if there is none.

    Raises:
        ConfigError: it is not what firstlight writes.
    """
    if not file.exists():
        return kind()
    try:
        content = read_plain_yaml(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"resume: {file} is damaged: {one_line(error)}") from None
    if not isinstance(content, kind):
        raise ConfigError(f"resume: {file} is damaged: it holds no {kind.__name__}")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """The composed config kept in a run folder.

    Raises:
        ConfigError: `folder` is no run folder.
    """
    try:
        config = read_plain_yaml(folder / CONFIG)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ConfigError(f"resume ({folder}): no run folder ({CONFIG}: {reason})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"resume ({folder}): {CONFIG} is not a composed config")
    return config


def environment() -> dict[str, Any]:
    """Versions, the machine and the git commit: what else decides the numbers of a run."""
    import torch  # late: whoever only looks for a run need not wait for it

    packages = ("firstlight", "torch", "lightning", "hydra-core", "omegaconf", "tiktoken", "tokenizers", "numpy")
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        **versions,
        "slurm_job": slurm_job(),
        "cpu_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
        WORKING_FOLDER: os.environ.get(BEGUN_IN) or working_folder(),
    }


def working_folder() -> str | None:
    """The folder that this process works in; None if it has been removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


def slurm_job() -> str | None:
    """What `scontrol requeue` calls the SLURM job that this is, if it is one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None


def _git_commit() -> str | None:
    """The commit of firstlight's checkout, with "-dirty" if files differ from it; None outside of a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed below somebody else's checkout?
        return git("describe", "--always", "--abbrev=40", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None
