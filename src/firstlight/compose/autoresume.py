"""The same command again goes on with its run: `resume=auto`, and SLURM jobs that were put back into the queue."""

import os
from pathlib import Path

from firstlight import processes
from firstlight.compose.compose import compose_config
from firstlight.compose.hydra_calls import parse_overrides
from firstlight.data.files import user_path
from firstlight.errors import ConfigError
from firstlight.interpolation import ENVIRONMENT as ENVIRONMENT_TEXT
from firstlight.interpolation import as_typed
from firstlight.overrides import setting
from firstlight.runs.run_folder import (
    AUTO,
    CONFIG,
    ENVIRONMENT,
    OVERRIDES,
    is_unfinished_start,
    read_record,
    slurm_job,
)


def is_auto(overrides: list[str]) -> bool:
    """Is this a command that is given again and again, until its run has ended?"""
    names = {o.key_or_group: o.value() for o in parse_overrides(overrides) if o.key_or_group == "resume"}
    return names.get("resume") == AUTO or (_is_requeued() and not names)


def _is_requeued() -> bool:
    """Is this a job of SLURM's that runs again?

    Raises:
        ConfigError: SLURM_RESTART_COUNT is not a number.
    """
    return slurm_job() is not None and processes.number("SLURM_RESTART_COUNT", 0) > 0


def autoresume(overrides: list[str], config_dir: str | None) -> list[str]:
    """`overrides` with `resume=` the run they began, if there is one, and without those that it has already.

    Without one `resume=auto` stays: the run is to begin in `output_dir`, and in no other folder.
    With `resume=auto` that is the run in `output_dir`; in a SLURM job that runs again, the one that the job began.

    Raises:
        ConfigError: they cannot be composed.
    """
    if not is_auto(overrides):
        return overrides
    own = [word for word in overrides if word.partition("=")[0].lstrip("+") != "resume"]
    is_requeued = own == overrides
    if not is_requeued and not any(word.partition("=")[0].lstrip("+") == "output_dir" for word in own):
        raise ConfigError("resume: auto goes on with the run in output_dir, which has a new name each time: give one")
    if not processes.is_further():
        wanted = user_path(str(compose_config("train", own, config_dir).output_dir))
        try:
            run = _of_this_job(wanted, own) if is_requeued else wanted
            is_run = run is not None and (run / CONFIG).is_file()
            is_taken = not is_run and wanted.is_dir() and not is_unfinished_start(wanted)
        except OSError as error:
            raise ConfigError(f"output_dir ({wanted}): cannot be looked into: {error.strerror}") from None
        if is_taken and not is_requeued:
            raise ConfigError(f"output_dir ({wanted}): resume=auto needs a folder of its own, and this is not a run")
        os.environ[processes.FOUND_RUN] = str(run) if is_run else ""
    found = os.environ.get(processes.FOUND_RUN)
    if not found:
        return own if is_requeued else [*own, f"resume={AUTO}"]
    run = Path(found)
    began_with = read_record(run / OVERRIDES, list)
    # What comes from the environment is not kept with a run: it is to be given again, as it is here. The folder is left
    # out: the run was found in it, and a sweep that has moved since names another one.
    again = [word for word in own if as_typed(word) not in began_with or ENVIRONMENT_TEXT in word]
    return [*(word for word in again if not word.startswith("output_dir=")), setting("resume", str(run))]


def _of_this_job(wanted: Path, own: list[str]) -> Path | None:
    """The run that this SLURM job began last with the command `own`; `wanted` is where it would be made today."""
    for file in sorted(wanted.parent.glob(f"*/{ENVIRONMENT}"), key=lambda f: f.stat().st_mtime, reverse=True):
        if not (file.parent / CONFIG).is_file():  # killed while its folder was made
            continue
        began_with = read_record(file.parent / OVERRIDES, list)
        is_same_command = all(as_typed(word) in began_with for word in own)
        if read_record(file, dict).get("slurm_job") == slurm_job() and is_same_command:
            return file.parent
    return None
