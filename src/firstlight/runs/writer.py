"""The one process that writes a run folder: it makes it, locks it and keeps its records."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from firstlight import processes
from firstlight.data.files import CONFIG, ENVIRONMENT
from firstlight.errors import ConfigError, shorten
from firstlight.files import PROBE, check_links, replace_text, sync_folder, temporary_of
from firstlight.lock import HeldError, files_of, only_process
from firstlight.runs.environment import PARTS_FROM, environment
from firstlight.runs.new_folder import make_folder, numbered
from firstlight.runs.plain_yaml import dump_plain_yaml
from firstlight.runs.run_folder import OVERRIDES, RunFolder

LOCK = ".lock"
LINKS_OF_WANDB = "wandb/*run-*/logs/*"
"""wandb makes links there to a log of its own service. A resumed run gets another folder there."""
COMPARED = (
    "python",
    "firstlight",
    "torch",
    "lightning",
    "cpu_threads",
    "cpu_capability",
    "cuda_device",
)
"""Entries of the environment that may change the last bits of a run's numbers."""


def nobody(folder: Path) -> None:
    """A run of one process has nobody to agree with on its folder."""


@contextmanager
def new_run_folder(
    wanted: Path,
    *,
    config: dict[str, Any],
    overrides: list[str],
    is_fixed: bool = False,
    agree_on: Callable[[Path], None] = nobody,
) -> Iterator[Path]:
    """Make a run folder, record config, overrides and environment in it, and hold its lock.

    It is `wanted`, or `wanted_2`, `wanted_3`, ...: the first that is new, empty (a sweep makes
    those), or holds only what is left when a process is killed while making it. With `is_fixed`
    only `wanted` is tried. `agree_on(folder)` is called when only its lock has been made.

    Raises:
        ConfigError: it cannot be made or written; or, with `is_fixed`, it is taken or another
            process holds it.
        Exception: what `agree_on` raises; nothing is left of the folder then.
    """
    # Collected before the folder is made: asking git, or torch for the device, may fail or take
    # time.
    records = {
        OVERRIDES: dump_plain_yaml(overrides),
        Path(ENVIRONMENT): json.dumps(environment(config), indent=2) + "\n",
        CONFIG: dump_plain_yaml(config),  # last: a folder that has it has all of them
    }
    for folder in numbered(wanted):
        with ExitStack() as held:
            try:
                is_ours = _begin(folder, records, held, agree_on)
            except HeldError as error:
                if is_fixed:
                    raise _is_written(folder, error) from None
                continue
            if is_ours:
                yield folder
                return
        if is_fixed:
            raise ConfigError(
                f"output_dir ({shorten(str(wanted))}): another process began a run there; give the"
                " command again"
            )


def _begin(
    folder: Path,
    records: dict[Path, str],
    held: ExitStack,
    agree_on: Callable[[Path], None],
) -> bool:
    """Make `folder` a run folder and hold its lock in `held`; return False if it is taken.

    Raises:
        HeldError: another process is making a run folder of it.
        ConfigError: it cannot be made or written.
    """
    make_folder(folder, "output_dir")
    try:
        # Nothing, not even a lock, is made in a folder that holds something else.
        if not is_unfinished_start(folder):
            return False
        held.enter_context(only_process(folder / LOCK))
        if not is_unfinished_start(folder):  # another process has begun a run here since
            return False
        try:
            agree_on(folder)
        except BaseException:
            held.close()
            _undo(folder)
            raise
        (folder / CONFIG.parent).mkdir(exist_ok=True)
        for name, text in records.items():
            replace_text(folder / name, text)
        # After a power cut a file is only found again if the folder that names it is on disk, too.
        for place in (folder / CONFIG.parent, folder, folder.absolute().parent):
            sync_folder(place)
    except OSError as error:
        shown = shorten(str(folder))
        raise ConfigError(
            f"output_dir ({shown}) cannot be written: {error.strerror}; give output_dir=..."
        ) from None
    held.enter_context(processes.sharing(folder))
    return True


def _undo(folder: Path) -> None:
    """Remove what is in a folder that was to become a run's, and the folder, as far as possible."""
    with suppress(OSError):
        for name in files_of(folder / LOCK):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def is_unfinished_start(folder: Path) -> bool:
    """Whether `folder` is empty, or holds only what a process left that was killed making it."""
    temporary = [temporary_of(record) for record in (CONFIG, OVERRIDES, Path(ENVIRONMENT))]
    earlier = CONFIG.with_suffix(".tmp")  # the temporary file of earlier versions
    known = {str(path) for path in (CONFIG.parent, OVERRIDES, ENVIRONMENT, earlier, *temporary)}
    known |= files_of(folder / LOCK)
    hydra = folder / CONFIG.parent
    paths = list(folder.iterdir())
    if hydra in paths:
        if hydra.is_symlink() or not hydra.is_dir():
            return False
        paths += hydra.iterdir()
    for path in paths:
        name = str(path.relative_to(folder))
        if path.is_symlink() or not (name in known or name.startswith(PROBE)):
            return False
    return True


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder. If the process dies, the system releases it.

    Raises:
        ConfigError: this is not a run folder, another process holds it, or it cannot be written.
    """
    shown = shorten(str(folder))
    try:
        is_run = RunFolder(folder).is_run
    except OSError as error:  # a name that no folder can have, or one that may not be looked into
        raise ConfigError(f"resume ({shown}): not a run folder ({error.strerror})") from None
    if not is_run:
        raise ConfigError(f"resume ({shown}): {RunFolder(folder).why_no_run}")
    # Before anything is written: a run folder may come from somebody else.
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
    return ConfigError(
        f"{shorten(str(folder))}: {error} is writing this run; wait for its end, or stop it"
    )


def update_run_folder(
    folder: Path, *, config: dict[str, Any], overrides: list[str]
) -> dict[str, tuple[str, str]]:
    """Record the config and overrides with which a run is resumed.

    Returns what has changed in its environment since it started: old and new value by name.

    Raises:
        ConfigError: its records are damaged, and nothing has been written; or they cannot be
            written.
    """
    run = RunFolder(folder)
    # Everything is read before anything is written: a damaged record must leave the others as they
    # are.
    all_overrides, was, now = [*run.overrides, *overrides], run.environment, environment(config)
    _rewrite(folder, {CONFIG: config, OVERRIDES: all_overrides})
    changed = {}
    for name in COMPARED:
        if name in was and was[name] != now[name]:
            changed[name] = shorten(str(was[name])), str(now[name])
    before = was.get(PARTS_FROM)
    for package, version in now.get(PARTS_FROM, {}).items():
        # Runs of earlier versions did not record it.
        known = before.get(package) if isinstance(before, dict) else None
        if known is not None and known != version:
            changed[package] = shorten(str(known)), version
    return changed


def note_data(folder: Path, data: dict[str, Any]) -> None:
    """Replace the section `data` in the config of a run: its text has moved.

    Raises:
        ConfigError: another process holds the run, or it cannot be written.
    """
    with only_writer(folder):
        _rewrite(folder, {CONFIG: RunFolder(folder).config | {"data": data}})


def _rewrite(folder: Path, records: dict[Path, Any]) -> None:
    try:
        for name, content in records.items():
            replace_text(folder / name, dump_plain_yaml(content))
    except OSError as error:
        raise ConfigError(f"resume ({folder}): cannot be written ({error.strerror})") from None
