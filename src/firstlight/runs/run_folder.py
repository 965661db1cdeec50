"""One run, one folder: made once, never shared, with everything that says what the run was."""

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from firstlight import processes
from firstlight.data.files import CONFIG, ENVIRONMENT
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.files import PROBE, check_links, replace_text, sync_folder, temporary_of
from firstlight.lock import HeldError, files_of, only_process
from firstlight.runs.plain_yaml import dump_plain_yaml, read_plain_yaml

LOCK = ".lock"
OVERRIDES = Path(".hydra") / "overrides.yaml"
LINKS_OF_WANDB = "wandb/*run-*/logs/*"
"""wandb links to a log of its own service here. A run that is resumed has another folder there."""
WORKING_FOLDER = "working_folder"
"""In ENVIRONMENT: the folder that relative paths in CONFIG are from."""
BEGUN_IN = "FIRSTLIGHT_BEGUN_IN"
"""Environment variable: that folder, for the trials of a sweep, which may be resumed from another one."""
AUTO = "auto"
"""As `resume`: the same command begins the run in `output_dir`, and resumes it when it is given again."""


@contextmanager
def new_run_folder(
    wanted: Path, *, config: dict[str, Any], overrides: list[str], is_fixed: bool = False
) -> Iterator[Path]:
    """Make a run folder, with the composed config, the overrides and the environment in it, and hold it as its writer.

    It is `wanted`, or `wanted_2`, `wanted_3`, ...: the first that is new, empty (a sweep makes those), or holds nothing
    but the beginnings of a run that was killed while its folder was made. With `is_fixed` it is `wanted` or none.

    Raises:
        ConfigError: it cannot be made or written; or, with `is_fixed`, another process has it, or it is not free.
    """
    described = environment()  # it takes long (git), and nothing has been made so far
    for folder in islice(numbered(wanted), 1 if is_fixed else None):
        with ExitStack() as held:
            if _begin(folder, held, config, overrides, described, is_fixed=is_fixed):
                yield folder
                return
    raise ConfigError(f"output_dir ({shorten(str(wanted))}): another process began a run there; give the command again")


def _begin(
    folder: Path,
    held: ExitStack,
    config: dict[str, Any],
    overrides: list[str],
    described: dict[str, Any],
    *,
    is_fixed: bool,
) -> bool:
    """Make a run folder of `folder`, and hold it in `held`; False if it is not free."""
    make_folder(folder, "output_dir")
    try:
        if not _is_free(folder):  # nothing, not even a lock, is made in a folder of something else
            return False
        held.enter_context(only_process(folder / LOCK))
        if not _is_free(folder):  # another process has begun a run here since
            return False
        _write_records(folder, config, overrides, described)
    except HeldError as error:
        if is_fixed:
            raise _is_written(folder, error) from None
        return False
    except OSError as error:
        shown = shorten(str(folder))
        raise ConfigError(f"output_dir ({shown}) cannot be written: {error.strerror}; give output_dir=...") from None
    held.enter_context(processes.sharing(folder))
    return True


def is_unfinished_start(folder: Path) -> bool:
    """Does a folder hold nothing but what is left of a run folder when its process is killed while it makes it?

    So does an empty one. (`config.tmp` is of earlier versions.)
    """
    known = files_of(folder / LOCK) | {ENVIRONMENT, temporary_of(folder / ENVIRONMENT).name}
    in_hydra = {CONFIG.name, temporary_of(CONFIG).name, OVERRIDES.name, temporary_of(OVERRIDES).name, "config.tmp"}
    hydra = folder / CONFIG.parent
    for path in folder.iterdir():
        if path.is_symlink():  # nothing that is made here is one
            return False
        if path.name not in known and path != hydra and not path.name.startswith(PROBE):
            return False
    if not hydra.exists():
        return True
    return hydra.is_dir() and all(path.name in in_hydra and not path.is_symlink() for path in hydra.iterdir())


def _is_free(folder: Path) -> bool:
    return not (folder / CONFIG).exists() and is_unfinished_start(folder)


def numbered(wanted: Path, key: str = "output_dir") -> Iterator[Path]:
    """`wanted`, `wanted_2`, `wanted_3`, ...: where a new folder may be made, if those before are taken.

    Raises:
        ConfigError: `wanted`, the value of `key`, is no name for a folder.
    """
    if wanted.name in ("", ".."):
        raise ConfigError(f"{key} ({wanted}) must name a folder that can be made")
    yield wanted
    for number in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}_{number}")


@contextmanager
def new_folder(wanted: Path, key: str) -> Iterator[Path]:
    """Make the folder `wanted`, or `wanted_2`, ...: the first that is not there. It goes again if it stays empty.

    Raises:
        ConfigError: it cannot be made; `key` is the setting that names it.
    """
    with made_above(wanted, key):
        folder = next(folder for folder in numbered(wanted, key) if _is_made(folder, key))
        try:
            yield folder
        finally:
            with suppress(OSError):  # something is in it
                folder.rmdir()


@contextmanager
def made_above(wanted: Path, key: str) -> Iterator[None]:
    """Make the folders above `wanted`. Those that are new go again if nothing is in them at the end.

    Raises:
        ConfigError: they cannot be made; `key` is the setting that names `wanted`.
    """
    new = [folder for folder in wanted.absolute().parents if not folder.exists()]
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(wanted, key, error) from None
    try:
        yield
    finally:
        with suppress(OSError):  # something is in them, or somebody else uses them now
            for folder in new:
                folder.rmdir()


def _is_made(folder: Path, key: str) -> bool:
    """Make `folder`, unless something of that name is there."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise _cannot_be_made(folder, key, error) from None
    return True


def make_folder(folder: Path, key: str) -> None:
    """Make `folder` if it is not there. `key` is the setting that names it.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{key} ({shorten(str(folder))}) is a file; give {key}=...") from None
    except OSError as error:
        raise _cannot_be_made(folder, key, error) from None


def _cannot_be_made(folder: Path, key: str, error: OSError) -> ConfigError:
    return ConfigError(f"{key} ({shorten(str(folder))}) cannot be made: {error.strerror}; give {key}=...")


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
            held.enter_context(only_process(folder / LOCK))
        except HeldError as error:
            raise _is_written(folder, error) from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None
        held.enter_context(processes.sharing(folder))
        yield


def _is_written(folder: Path, error: HeldError) -> ConfigError:
    return ConfigError(f"{shorten(str(folder))}: {error} is writing this run; wait for its end, or stop it")


def _write_records(folder: Path, config: dict[str, Any], overrides: list[str], described: dict[str, Any]) -> None:
    (folder / CONFIG.parent).mkdir(exist_ok=True)
    replace_text(folder / OVERRIDES, dump_plain_yaml(overrides))
    replace_text(folder / ENVIRONMENT, json.dumps(described, indent=2) + "\n")
    replace_text(folder / CONFIG, dump_plain_yaml(config))  # last: a folder that has it has all
    for place in (folder / CONFIG.parent, folder, folder.absolute().parent):
        sync_folder(place)


def update_run_folder(folder: Path, *, config: dict[str, Any], overrides: list[str]) -> dict[str, tuple[str, str]]:
    """Note in the folder of a continued run what it is continued with; return the versions that have changed.

    Raises:
        ConfigError: its records are not what firstlight writes; nothing has been written then.
    """
    kept, was, now = read_record(folder / OVERRIDES, list), read_record(folder / ENVIRONMENT, dict), environment()
    try:
        replace_text(folder / CONFIG, dump_plain_yaml(config))
        replace_text(folder / OVERRIDES, dump_plain_yaml([*kept, *overrides]))
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
            replace_text(folder / CONFIG, dump_plain_yaml(read_config(folder) | {"data": data}))
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
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise _damaged(file, kind, str(reason)) from None
    if not isinstance(content, kind):
        raise _damaged(file, kind, "")
    return content


def _damaged(file: Path, kind: type[Any], reason: str) -> ConfigError:
    expected = "a list of overrides" if kind is list else "versions and settings by name"
    return ConfigError(
        f"{file} is damaged{reason and f' ({reason})'}: it should hold {expected}; put a copy of it back, "
        "or remove it: the run goes on without"
    )


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
