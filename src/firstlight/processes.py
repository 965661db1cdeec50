"""Which process of a run this is, decided without trusting a launcher's environment variables.

A run on several devices has several processes. The user starts the first one, and it launches the
rest, with the same command line (training/further.py); or torchrun or srun starts all of them.
Launchers and schedulers set variables such as `RANK` and `SLURM_PROCID`, which are often left over
in an environment that has nothing to do with this run. Lightning and torch would believe them, so
they are removed from the environment before either is imported. `launchers.py` decides which of
them count. A config can refer to all of them (`${oc.env:SLURM_PROCID}`).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
further processes inherit them, as they do everything else in the environment."""

LAUNCHED_WITH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that the first process of a machine sets for those that it launches."""
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


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run, and where they meet."""

    local_rank: int
    node_rank: int
    devices: int
    """Processes on each machine."""
    num_nodes: int
    address: str = "127.0.0.1"
    port: int = 0
    """Of the store in which the processes meet; 0: any that is free, to be passed to the others."""
    one_per_device: bool = False
    """Whether a launcher has started every process; else this one launches those of its machine."""
    store_is_there: bool = False
    """Whether the launcher serves the store; else the first process does."""
    attempt: str = "0"
    """Tells the starts of one command apart that share a store."""

    @property
    def rank(self) -> int:
        """The number of this process among all."""
        return self.node_rank * self.devices + self.local_rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.num_nodes * self.devices


@dataclass
class _Known:
    """What this process knows of its run."""

    was_started: bool = False
    """Whether another process of the run launched this one."""
    is_placed: bool = False
    """Whether `place` is known."""
    place: Place | None = None
    """Where this process stands, in a run of several."""
    told_folder: Path | None = None
    """The run folder, where the first process has told it."""
    taken: dict[str, str] = field(default_factory=dict)
    """The variables that were removed from the environment."""


_known = _Known()


def begin() -> None:
    """Remove the environment variables that would decide which process this is.

    Call it before torch is imported.
    """
    global _known
    # What is known of the command before ends here, where one process runs several. The variables
    # stay: they are those of the process.
    _known = _Known(taken=dict(_known.taken))
    _known.was_started = is_further()
    # What torch's C++ code logs of a connection that fails, with its frames, is also raised.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    # Lightning and torch read these variables when they are imported, and believe them.
    for name in list(os.environ):
        if _known.was_started and name in LAUNCHED_WITH:  # here they are our own
            continue
        if DECIDING.fullmatch(name):
            _known.taken[name] = os.environ.pop(name)


@contextmanager
def undone() -> Iterator[None]:
    """Within the block `begin` may be called; after it, nothing that it has recorded is left.

    The environment itself is not restored.
    """
    global _known
    before = _known
    _known = replace(before, taken=dict(before.taken))
    try:
        yield
    finally:
        _known = before


def given(name: str) -> str | None:
    """The environment variable `name` as it was when this process started."""
    return os.environ.get(name, _known.taken.get(name))


def given_environment() -> dict[str, str]:
    """The whole environment as it was when this process started, for a command that it launches."""
    return {**_known.taken, **os.environ}


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


def was_launched() -> bool:
    """Whether the first process of this machine launched this one, to train with it.

    The answer stays the same after that process has died.
    """
    if _known.was_started:
        return True
    # Any command that is called from within a run inherits the variables, but has another parent.
    is_child = os.environ.get(FIRST_PROCESS) == str(os.getppid()) and RUN_FOLDER in os.environ
    rank = os.environ.get("LOCAL_RANK", "")
    return is_child and re.fullmatch("[1-9][0-9]{0,8}", rank) is not None


def is_further() -> bool:
    """Whether another process of the run is its first, which makes the folder and tells the user.

    Where a launcher has started all of them, this is known as soon as `follow` was called.
    """
    return was_launched() or _known.told_folder is not None


def first_process() -> int:
    """The process id of the one that launched this; only where `was_launched`."""
    return int(os.environ[FIRST_PROCESS])


def take(place: Place | None) -> None:
    """From now on this process has `place` among those of its run; None: it is alone."""
    _known.place, _known.is_placed = place, True


def place() -> Place | None:
    """Where this process stands; None in a run of one process, or before it is known."""
    return _known.place


def is_placed() -> bool:
    """Whether it is known if this process is alone, and where it stands if it is not."""
    return _known.is_placed


def follow(folder: Path) -> None:
    """From now on this process belongs to the run in `folder`, whose first process is another."""
    _known.told_folder = folder


def shared_run_folder() -> Path | None:
    """The run folder that the first process made; None in the first process itself."""
    if _known.told_folder is not None:
        return _known.told_folder
    return Path(os.environ[RUN_FOLDER]) if was_launched() else None


@contextmanager
def sharing(folder: Path) -> Iterator[Path]:
    """Within the block, processes that this one launches belong to the run in `folder`."""
    # The other processes are launched with this environment.
    os.environ[RUN_FOLDER], os.environ[FIRST_PROCESS] = str(folder.absolute()), str(os.getpid())
    try:
        yield folder
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


def n_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
