"""The same command again goes on with its run: `resume=auto`, and SLURM jobs that were put back into the queue."""

import os
from pathlib import Path

from firstlight.compose import compose_config, parse_overrides
from firstlight.errors import ConfigError
from firstlight.interpolation import ENVIRONMENT as ENVIRONMENT_TEXT
from firstlight.training.run_folder import (
    AUTO,
    CONFIG,
    ENVIRONMENT,
    OVERRIDES,
    is_unfinished_start,
    read_record,
    slurm_job,
)

FOUND = "FIRSTLIGHT_FOUND_RUN"
"""Environment variable: what the first process of a multi-device run has found, for those that it starts."""


def is_auto(overrides: list[str]) -> bool:
    """Is this a command that is given again and again, until its run has ended?"""
    names = {o.key_or_group: o.value() for o in parse_overrides(overrides) if o.key_or_group == "resume"}
    return names.get("resume") == AUTO or (_is_requeued() and not names)


def _is_requeued() -> bool:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def autoresume(overrides: list[str], config_dir: str | None) -> list[str]:
    """`overrides` with `resume=` the run they began, if there is one, and without those that it has already.

    Without one `resume=auto` stays: the run is to begin in `output_dir`, and in no other folder.
    With `resume=auto` that is the run in `output_dir`; in a SLURM job that runs again, the one that the job began.

    Raises:
        ConfigError: they cannot be composed.
    """
    if not is_auto(overrides):
        return overrides
    own = [word for word in overrides if not word.startswith(("resume=", "+resume=", "++resume="))]
    is_requeued = own == overrides
    if not is_requeued and not any(word.startswith("output_dir=") for word in own):
        raise ConfigError("resume: auto goes on with the run in output_dir, which has a new name each time: give one")
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        wanted = Path(compose_config("train", own, config_dir).output_dir)
        run = _of_this_job(wanted, own) if is_requeued else wanted
        is_run = run is not None and (run / CONFIG).is_file()
        if not is_requeued and not is_run and wanted.is_dir() and not is_unfinished_start(wanted):
            raise ConfigError(f"output_dir ({wanted}): resume=auto needs a folder of its own, and this is no run")
        os.environ[FOUND] = str(run) if is_run else ""
    if not os.environ[FOUND]:
        return own if is_requeued else [*own, f"resume={AUTO}"]
    run = Path(os.environ[FOUND])
    began_with = read_record(run / OVERRIDES, list)
    # What comes from the environment is not kept with a run: it is to be given again, as it is here.
    return [*(word for word in own if word not in began_with or ENVIRONMENT_TEXT in word), f"resume={run}"]


def _of_this_job(wanted: Path, own: list[str]) -> Path | None:
    """The run that this SLURM job began last with the command `own`; `wanted` is where it would be made today."""
    for file in sorted(wanted.parent.glob(f"*/{ENVIRONMENT}"), key=lambda f: f.stat().st_mtime, reverse=True):
        if not (file.parent / CONFIG).is_file():  # killed while its folder was made
            continue
        began_with = read_record(file.parent / OVERRIDES, list)
        if read_record(file, dict).get("slurm_job") == slurm_job() and all(word in began_with for word in own):
            return file.parent
    return None
