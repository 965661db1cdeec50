"""Which process of a run this is. Only firstlight decides: whoever starts the processes says which one is first.

A run on several devices is several processes: the first is the one that was typed, and it starts the others (Lightning
does, from the same command line). The variables that launchers and schedulers set (`RANK`, `SLURM_PROCID`, ...) are
often left in an environment that has nothing to do with this run, and Lightning, torch and others believe them: so
they are taken away before any of those is imported. A config can still refer to them (`${oc.env:SLURM_PROCID}`).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstlight.errors import ConfigError, shorten

RUN_FOLDER = "FIRSTLIGHT_RUN_FOLDER"
"""Environment variable: the folder that the first process of a multi-device run made for all of them."""
FIRST_PROCESS = "FIRSTLIGHT_FIRST_PROCESS"
"""Environment variable: the id of that process. It is the parent of the further ones, and of nothing else."""
FOUND_RUN = "FIRSTLIGHT_FOUND_RUN"
"""Environment variable: the run that `resume=auto` has found in the first process, for the further ones; or empty."""
SWEEP, TRIAL = "FIRSTLIGHT_SWEEP", "FIRSTLIGHT_TRIAL"
"""Environment variables of a trial's processes: the folder of the sweep, and the number of the row."""

LAUNCHED_WITH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What Lightning's launcher gives to the processes that it starts."""
DECIDING = re.compile(
    "|".join(
        (
            *LAUNCHED_WITH,
            *("RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE"),
            *("STANDALONE_PORT", "TORCHELASTIC_.*", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
            *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS"),
            *("JSM_NAMESPACE_.*", "LSB_DJOB_RANKFILE", "OMPI_COMM_WORLD_.*", "PMI_.*", "PMIX_.*", "MPI_LOCAL.*"),
            *("PL_TRAINER_.*", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"),  # settings of Lightning's: ours are in the config
        )
    )
)
"""Names of variables that would decide who is first, how many there are, or what Lightning's Trainer does."""
TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""Variables in which srun, mpirun and jsrun say how many processes they have started."""

_was_started = False
"""Was this process a further one when it began?"""
_taken: dict[str, str] = {}
"""The variables that were taken out of the environment."""


def begin() -> None:
    """Take out of the environment what would decide which process this is. To be called before torch is imported.

    Raises:
        ConfigError: torchrun has started several processes, each of which would train the whole run.
    """
    global _was_started
    _was_started = _is_started()
    if not is_further():
        n_processes = _number_or_one(os.environ.get("WORLD_SIZE", ""))
        if "TORCHELASTIC_RUN_ID" in os.environ and n_processes > 1:
            raise ConfigError(
                f"torchrun has started {n_processes} processes: start one without it; firstlight starts the others "
                "(trainer.devices=...)"
            )
    kept = LAUNCHED_WITH if is_further() else ()
    for name in list(os.environ):
        if DECIDING.fullmatch(name) and name not in kept:
            _taken[name] = os.environ.pop(name)


def given(name: str) -> str | None:
    """The environment variable `name` as this process was given it."""
    return os.environ.get(name, _taken.get(name))


def given_environment() -> dict[str, str]:
    """All environment variables as this process was given them: for a command of ours that it starts."""
    return {**_taken, **os.environ}


def number(name: str, default: int) -> int:
    """The environment variable `name` as a whole number; `default` if it is not set, or empty.

    Raises:
        ConfigError: it is something else.
    """
    text = given(name) or ""
    if not text.strip():
        return default
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
        raise ConfigError(f"environment variable {name} ({shorten(text)}): not a whole number; correct it, or unset it")
    return int(text)


def is_further() -> bool:
    """Was this process started by the first process of a run, to train with it?

    It stays so when that process has died, and with it the proof.
    """
    return _was_started or _is_started()


def _is_started() -> bool:
    """The variables alone prove nothing: any command that is called from within a run inherits them."""
    is_child = os.environ.get(FIRST_PROCESS) == str(os.getppid()) and RUN_FOLDER in os.environ
    return is_child and re.fullmatch("[1-9][0-9]{0,8}", os.environ.get("LOCAL_RANK", "")) is not None


def first_process() -> int:
    """The id of the first process of the run, if this is a further one."""
    return int(os.environ[FIRST_PROCESS])


def local_rank() -> int:
    """The number of this process on its machine: 0 for the first."""
    return int(os.environ["LOCAL_RANK"]) if is_further() else 0


def shared_run_folder() -> Path | None:
    """The folder of the run, if this is one of its further processes."""
    return Path(os.environ[RUN_FOLDER]) if is_further() else None


@contextmanager
def sharing(folder: Path) -> Iterator[None]:
    """Within the block, processes that this one starts belong to the run in `folder`."""
    os.environ[RUN_FOLDER], os.environ[FIRST_PROCESS] = str(folder.absolute()), str(os.getpid())
    try:
        yield
    finally:
        for name in (RUN_FOLDER, FIRST_PROCESS):
            os.environ.pop(name, None)


def several_tasks() -> str | None:
    """What is to be said if a launcher has started this command several times; None if it has not."""
    if is_further():
        return None
    for name in TASKS:
        n_tasks = _number_or_one(given(name) or "")
        if n_tasks > 1:
            return (
                f"{name}={n_tasks}: this command seems to have been started {n_tasks} times, and each trains a run of "
                "its own; to train one run on several devices start it once, with trainer.devices=..."
            )
    return None


def _number_or_one(text: str) -> int:
    """A count that others have set; what is not a number counts as not set."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 1
