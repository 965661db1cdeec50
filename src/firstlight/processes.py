"""Which process of a run this is, decided without trusting a launcher's environment variables.

A run on several devices has several processes. The user starts the first one, and Lightning
launches the rest from it, with the same command line. Launchers and schedulers set variables such
as `RANK` and `SLURM_PROCID`, which are often left over in an environment that has nothing to do
with this run. Lightning and torch would believe them, so they are removed from the environment
before either is imported. A config can still refer to them (`${oc.env:SLURM_PROCID}`).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firstlight.errors import ConfigError, shorten

RUN_FOLDER = "FIRSTLIGHT_RUN_FOLDER"
"""Environment variable: the run folder, which the first process has made for all of them."""
FIRST_PROCESS = "FIRSTLIGHT_FIRST_PROCESS"
"""Environment variable: the process id of the first process, the parent of all the others."""
FOUND_RUN = "FIRSTLIGHT_FOUND_RUN"
"""Environment variable: the run that `resume=auto` found in the first process, or empty."""
SWEEP, TRIAL = "FIRSTLIGHT_SWEEP", "FIRSTLIGHT_TRIAL"
"""Environment variables of a trial: the folder of its sweep, and its row number in the ledger. Its
further processes inherit them, as they do everything else that Lightning does not pass on."""

LAUNCHED_WITH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that Lightning sets for the processes it launches."""
DECIDING = re.compile(
    r"""
    (LOCAL_|NODE_|GROUP_|ROLE_)?RANK | (LOCAL_|GROUP_|ROLE_)?WORLD_SIZE | MASTER_(ADDR|PORT)
    | STANDALONE_PORT | TORCHELASTIC_.*
    | SLURM_(PROCID|LOCALID|NODEID|NTASKS|NTASKS_PER_NODE|NPROCS|STEP_NUM_TASKS)
    | JSM_NAMESPACE_.* | LSB_DJOB_RANKFILE | OMPI_COMM_WORLD_.* | PMI_.* | PMIX_.* | MPI_LOCAL.*
    # Lightning's settings: ours are in the config
    | PL_TRAINER_.* | PL_GLOBAL_SEED | PL_SEED_WORKERS
    """,
    re.VERBOSE,
)
"""Variables that would decide which process is first, how many run, or how Lightning behaves."""
TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""Variables in which srun, mpirun and jsrun say how many processes they have started."""

_was_started = False
"""Whether another process of the run launched this one."""
_taken: dict[str, str] = {}
"""The variables that were removed from the environment."""


def begin() -> None:
    """Remove the environment variables that would decide which process this is.

    Call it before torch is imported.

    Raises:
        ConfigError: torchrun started several processes, each of which would train the whole run.
    """
    global _was_started
    _was_started = False  # of the command before, where one process runs several
    _was_started = is_further()
    n_processes = _count(os.environ.get("WORLD_SIZE"))
    # Before the variables are removed: they are how torchrun is recognised.
    if "TORCHELASTIC_RUN_ID" in os.environ and n_processes > 1 and not _was_started:
        raise ConfigError(
            f"torchrun started {n_processes} processes; do not use torchrun: start one process with"
            " trainer.devices=... and it launches the rest"
        )
    # Lightning and torch read these variables when they are imported, and believe them.
    for name in list(os.environ):
        if _was_started and name in LAUNCHED_WITH:  # here they are Lightning's own
            continue
        if DECIDING.fullmatch(name):
            _taken[name] = os.environ.pop(name)


@contextmanager
def undone() -> Iterator[None]:
    """Within the block `begin` may be called; after it, nothing that it has recorded is left.

    The environment itself is not restored.
    """
    global _was_started
    was_started, taken = _was_started, dict(_taken)
    try:
        yield
    finally:
        _was_started = was_started
        _taken.clear()
        _taken.update(taken)


def given(name: str) -> str | None:
    """The environment variable `name` as it was when this process started."""
    return os.environ.get(name, _taken.get(name))


def given_environment() -> dict[str, str]:
    """The whole environment as it was when this process started, for a command that it launches."""
    return {**_taken, **os.environ}


def number(name: str, default: int) -> int:
    """The environment variable `name` as a whole number; `default` if it is unset or empty.

    Raises:
        ConfigError: it is not a whole number.
    """
    text = given(name) or ""
    if not text.strip():
        return default
    # int(text) alone would also accept 1_000 and digits of other scripts, and raise for thousands
    # of digits.
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
        raise ConfigError(
            f"environment variable {name} ({shorten(text)}): not a whole number; correct or unset"
            " it"
        )
    return int(text)


def is_further() -> bool:
    """Whether this process was launched by the first process of a run to train with it.

    The answer stays the same after the first process has died.
    """
    if _was_started:
        return True
    # Any command that is called from within a run inherits the variables, but has another parent.
    is_child = os.environ.get(FIRST_PROCESS) == str(os.getppid()) and RUN_FOLDER in os.environ
    rank = os.environ.get("LOCAL_RANK", "")
    return is_child and re.fullmatch("[1-9][0-9]{0,8}", rank) is not None


def first_process() -> int:
    """The process id of the first process of the run; only for a process that it launched."""
    return int(os.environ[FIRST_PROCESS])


def local_rank() -> int:
    """The rank of this process on its machine; 0 for the first process."""
    return int(os.environ["LOCAL_RANK"]) if is_further() else 0


def shared_run_folder() -> Path | None:
    """The run folder that the first process made; None in the first process itself."""
    return Path(os.environ[RUN_FOLDER]) if is_further() else None


@contextmanager
def sharing(folder: Path) -> Iterator[None]:
    """Within the block, processes that this one launches belong to the run in `folder`."""
    # Lightning starts the other processes with this environment.
    os.environ[RUN_FOLDER], os.environ[FIRST_PROCESS] = str(folder.absolute()), str(os.getpid())
    try:
        yield
    finally:
        for name in (RUN_FOLDER, FIRST_PROCESS):
            os.environ.pop(name, None)


@dataclass(frozen=True)
class SweepTrial:
    """A trial of a sweep: the folder of the sweep, and the number of its row in the ledger."""

    sweep: Path
    number: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a process one of this trial."""
        return {SWEEP: str(self.sweep.absolute()), TRIAL: str(self.number)}


def trial() -> SweepTrial | None:
    """The trial that this process trains; None if its run does not belong to a sweep."""
    if SWEEP not in os.environ:
        return None
    return SweepTrial(Path(os.environ[SWEEP]), number(TRIAL, 0))


def remember_found(run: Path | None) -> None:
    """Tell the other processes of this run which run `resume=auto` has found, if any."""
    os.environ[FOUND_RUN] = str(run or "")


def found_run() -> Path | None:
    """The run that `resume=auto` found in the first process; None if it found none."""
    found = os.environ.get(FOUND_RUN)
    return Path(found) if found else None


def several_tasks() -> str | None:
    """Warn if a launcher seems to have started this command several times; otherwise None."""
    if is_further():  # Lightning started it, as it should
        return None
    for name in TASKS:
        n_tasks = _count(given(name))
        if n_tasks > 1:
            return (
                f"{name}={n_tasks}: this command seems to have been started {n_tasks} times, and"
                " each process trains its own run; to train one run on several devices, start it"
                " once with trainer.devices=..."
            )
    return None


def _count(text: str | None) -> int:
    """`text` as a count; 1 if it is not one."""
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text) else 1
