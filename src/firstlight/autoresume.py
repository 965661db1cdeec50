"""The same command again goes on with its run: `resume=auto`, and SLURM jobs that were put back into the queue."""

import os
from pathlib import Path

from firstlight.compose import compose_config, parse_overrides
from firstlight.interpolation import ENVIRONMENT as ENVIRONMENT_TEXT
from firstlight.training.run_folder import CONFIG, ENVIRONMENT, OVERRIDES, read_record, slurm_job

FOUND = "FIRSTLIGHT_FOUND_RUN"
"""Environment variable: what the first process of a multi-device run has found, for those that it starts."""


def autoresume(overrides: list[str], config_dir: str | None) -> list[str]:
    """`overrides` with `resume=` the run they began, if there is one, and without those that it has already.

    With `resume=auto` that is the run in `output_dir`; in a SLURM job that runs again, the one that the job began.

    Raises:
        ConfigError: they cannot be composed.
    """
    names = {o.key_or_group: o.value() for o in parse_overrides(overrides) if o.key_or_group == "resume"}
    is_requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0 and not names
    if names.get("resume") != "auto" and not is_requeued:
        return overrides
    own = [word for word in overrides if not word.startswith(("resume=", "+resume=", "++resume="))]
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        wanted = Path(compose_config("train", own, config_dir).output_dir)
        run = _of_this_job(wanted.parent) if is_requeued else wanted
        os.environ[FOUND] = str(run) if run is not None and (run / CONFIG).is_file() else ""
    if not os.environ[FOUND]:
        return own
    run = Path(os.environ[FOUND])
    began_with = read_record(run / OVERRIDES, list)
    # What comes from the environment is not kept with a run: it is to be given again, as it is here.
    return [*(word for word in own if word not in began_with or ENVIRONMENT_TEXT in word), f"resume={run}"]


def _of_this_job(folder: Path) -> Path | None:
    """The run in `folder` that this SLURM job began last."""
    for file in sorted(folder.glob(f"*/{ENVIRONMENT}"), key=lambda f: f.stat().st_mtime, reverse=True):
        if read_record(file, dict).get("slurm_job") == slurm_job():
            return file.parent
    return None
