"""The same command again resumes its run: `resume=auto`, and SLURM jobs that were requeued."""

from pathlib import Path

from firstlight import processes
from firstlight.compose.compose import compose_config
from firstlight.compose.hydra_calls import parse_overrides
from firstlight.data.files import ENVIRONMENT, user_path
from firstlight.errors import ConfigError
from firstlight.interpolation import ENVIRONMENT as ENVIRONMENT_TEXT
from firstlight.interpolation import as_typed
from firstlight.overrides import setting
from firstlight.runs.environment import slurm_job
from firstlight.runs.run_folder import AUTO, RunFolder
from firstlight.runs.writer import is_unfinished_start


def is_auto(overrides: list[str]) -> bool:
    """Whether the same command is given again and again, until its run has ended.

    Raises:
        ConfigError: SLURM_RESTART_COUNT is not a number.
    """
    names = [
        override.value()
        for override in parse_overrides(overrides)
        if override.key_or_group == "resume"
    ]
    if names:
        return names[-1] == AUTO
    # A job of SLURM's that runs again, after it was requeued.
    return slurm_job() is not None and processes.number("SLURM_RESTART_COUNT", 0) > 0


def autoresume(overrides: list[str], config_dir: str | None) -> list[str]:
    """Replace `resume=auto` by `resume=` the run that this command began, if it exists.

    With `resume=auto` that is the run in `output_dir`; in a SLURM job that runs again, the run that
    the job began. The overrides that the run has already are left out. If there is no run yet,
    `resume=auto` stays: the run is to begin in `output_dir`, and in no other folder.

    Call it only if `is_auto(overrides)`.

    Raises:
        ConfigError: they cannot be composed, or something else is in `output_dir`.
    """
    own = [word for word in overrides if _key(word) != "resume"]
    is_requeued = own == overrides
    if not is_requeued and "output_dir" not in map(_key, own):
        raise ConfigError(
            "resume: auto resumes the run in output_dir, which has a new name each time; give"
            " output_dir=..."
        )
    # The other processes of a run are started when its folder has been made: they must not find it.
    if not processes.is_further():
        run = _find(own, config_dir, is_requeued=is_requeued)
        processes.remember_found(run)
    found = processes.found_run()
    if found is None:
        return own if is_requeued else [*own, f"resume={AUTO}"]
    began_with = RunFolder(found).overrides
    again: list[str] = []
    for word in own:
        # What comes from the environment is not stored with a run: it is given again.
        is_new = as_typed(word) not in began_with or ENVIRONMENT_TEXT in word
        # The run was found in its folder; a sweep that has moved since names another one.
        if is_new and not word.startswith("output_dir="):
            again.append(word)
    return [*again, setting("resume", str(found))]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _find(own: list[str], config_dir: str | None, *, is_requeued: bool) -> Path | None:
    """Find the run that the command `own` has begun; None if it is to begin now.

    Raises:
        ConfigError: something else is in the folder where it would begin.
    """
    wanted = user_path(_output_dir(own, config_dir))
    try:
        run = _of_this_job(wanted, own) if is_requeued else wanted
        if run is not None and RunFolder(run).is_run:
            return run
        is_taken = not is_requeued and wanted.is_dir() and not is_unfinished_start(wanted)
    except OSError as error:
        raise ConfigError(f"output_dir ({wanted}): cannot be read: {error.strerror}") from None
    if is_taken:
        raise ConfigError(
            f"output_dir ({wanted}): resume=auto needs a folder of its own, and this is not a run"
        )
    return None


def _output_dir(own: list[str], config_dir: str | None) -> str:
    """The output_dir of the command `own`: as it is given, or else from its config.

    Raises:
        ConfigError: that config cannot be composed.
    """
    given = [word for word in own if _key(word) == "output_dir"]
    if given:
        folder = parse_overrides(given)[-1].value()
        if isinstance(folder, str) and "$" not in folder:  # no reference to something else
            return folder
    return str(compose_config("train", own, config_dir).output_dir)


def _of_this_job(wanted: Path, own: list[str]) -> Path | None:
    """Find the run that this SLURM job began last with the command `own`; None if it began none.

    `wanted` is the folder that a new run would get, beside those of earlier runs.
    """
    # A requeued job has its id again, and another time in the name of its folder.
    files = wanted.parent.glob(f"*/{ENVIRONMENT}")
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        run = RunFolder(file.parent)
        if not run.is_run:  # killed while its folder was made
            continue
        began_with = run.overrides
        is_same_command = all(as_typed(word) in began_with for word in own)
        if run.environment.get("slurm_job") == slurm_job() and is_same_command:
            return file.parent
    return None
