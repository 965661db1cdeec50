"""What has started this process, and its place among the processes of a run.

A run of several processes begins in one of four ways:

- one command, which launches the rest itself;
- torchrun, with a process for each device;
- SLURM's srun, with a task for each device, or for each machine;
- the same command on each machine, with `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT`; or once for
  each device, with `LOCAL_RANK` and `WORLD_SIZE` as well (Lightning's variables).

Variables of a launcher may be left over from another program. Those of torchrun count if torchrun
runs above this process; those of SLURM and Lightning if they fit `trainer.devices` and
`trainer.num_nodes`.
"""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from firstlight.errors import ConfigError
from firstlight.process_group import commands_above, started
from firstlight.processes import Place, given, is_placed, number, trial, was_launched

TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""Variables in which srun, mpirun and jsrun say how many processes they have started."""
TORCHRUN = re.compile(r"torchrun|torch\.distributed\.(run|launch)|torch/distributed/(run|launch)")
"""How the command of torchrun's agent, which starts the processes of a machine, can be told."""
STARTED_WITH = (
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
)
"""Variables that tell the starts of a launcher apart."""
PORTS = range(15_000, 30_000)
"""The ports of which a SLURM job takes one."""


def find_place(devices: int, num_nodes: int) -> Place | None:
    """Where this process stands in a run with so many devices on so many machines.

    None in a run of one process.

    Raises:
        ConfigError: a launcher has started another number of processes, or does not say enough.
    """
    world_size = devices * num_nodes
    if was_launched():
        return Place(
            number("LOCAL_RANK", 0),
            number("NODE_RANK", 0),
            devices,
            num_nodes,
            address=_told("MASTER_ADDR"),
            port=_port(),
            one_per_device=True,
        )
    if trial() is not None:  # a sweep has started it, whoever has started the sweep
        return None if world_size == 1 else Place(0, 0, devices, num_nodes)
    if torchrun_processes() > 1:
        return _place_in_torchrun(devices, num_nodes)
    if world_size == 1:
        return None
    if slurm_tasks() > 1:
        return _place_in_slurm(devices, num_nodes)
    if num_nodes > 1:
        return _place_by_hand(devices, num_nodes)
    return Place(0, 0, devices, num_nodes)


def torchrun_processes() -> int:
    """How many processes torchrun has started for one run; 1 if it has not started this one."""
    if given("TORCHELASTIC_RUN_ID") is None or was_launched() or trial() is not None:
        return 1
    if not any(TORCHRUN.search(command) for command in commands_above()):
        return 1
    return _count(given("WORLD_SIZE"))


def slurm_tasks() -> int:
    """How many tasks srun has started with this one; 1 outside SLURM."""
    # The shell of `srun -n 2 --pty bash` is alone: the other task's has ended.
    if was_launched() or trial() is not None or given("SLURM_JOB_NAME") == "bash":
        return 1
    return _count(given("SLURM_STEP_NUM_TASKS"))


@contextmanager
def telling() -> Iterator[bool]:
    """Whether to tell the user of a mistake now, which other processes of this machine find, too.

    A launcher starts a command several times, and each process finds the same mistake in it: the
    first to find it tells it. The others wait until it has, since a launcher ends all of them as
    soon as one has ended. Only until the place of this process is known.
    """
    is_one_of_many = torchrun_processes() > 1 or slurm_tasks() > 1
    if is_placed() or not is_one_of_many:
        yield True
        return
    with ExitStack() as held:
        try:
            # The file holds a byte once the mistake has been told: the lock alone would not say so
            # to a process that comes later.
            file = _open_file_of_this_start()
            held.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a full disk, no locks: better told by each than by none
            yield True
            return
        is_first = os.fstat(file).st_size == 0
        yield is_first
        if is_first:
            os.write(file, b"1")


def several_tasks(world_size: int) -> str | None:
    """What the user should know if a launcher has started this command several times in vain.

    `world_size` is the number of processes in the run.
    """
    if was_launched() or torchrun_processes() > 1 or (world_size > 1 and slurm_tasks() > 1):
        return None
    if given("TORCHELASTIC_RUN_ID") is not None and _count(given("WORLD_SIZE")) > 1:
        return (
            "TORCHELASTIC_RUN_ID: torchrun does not run above this process, so its variables are"
            " ignored"
        )
    for name in TASKS:
        n_tasks = _count(given(name))
        if n_tasks > 1:
            return (
                f"{name}={n_tasks}: this command seems to have been started {n_tasks} times, and"
                " each process trains its own run; to train one run on several devices, give"
                " trainer.devices=... (and trainer.num_nodes=...)"
            )
    return None


def _place_in_torchrun(devices: int, num_nodes: int) -> Place:
    world_size, local_size = number("WORLD_SIZE", 1), number("LOCAL_WORLD_SIZE", 1)
    if (local_size, world_size) != (devices, devices * num_nodes):
        nodes = f" trainer.num_nodes={world_size // local_size}" if world_size > local_size else ""
        raise ConfigError(
            f"trainer.devices ({devices}), trainer.num_nodes ({num_nodes}): torchrun has started"
            f" {world_size} processes, {local_size} on this machine; give"
            f" trainer.devices={local_size}{nodes}"
        )
    return Place(
        number("LOCAL_RANK", 0),
        number("GROUP_RANK", 0),
        devices,
        num_nodes,
        address=_told("MASTER_ADDR"),
        port=_port(),
        one_per_device=True,
        store_is_there=given("TORCHELASTIC_USE_AGENT_STORE") == "True",
        # The agent, and its store, stay when it starts the processes again (--max-restarts).
        attempt=f"{given('TORCHELASTIC_RUN_ID')}/{given('TORCHELASTIC_RESTART_COUNT')}",
    )


def _place_in_slurm(devices: int, num_nodes: int) -> Place:
    # Imported here: it takes a second, and commands for one device need none of it.
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    n_tasks, node = slurm_tasks(), number("SLURM_NODEID", 0)
    local_rank = number("SLURM_LOCALID", 0)
    one_per_device = n_tasks == devices * num_nodes and local_rank < devices
    one_per_node = n_tasks == num_nodes and local_rank == 0
    if node >= num_nodes or not (one_per_device or one_per_node):
        raise ConfigError(
            f"trainer.devices ({devices}), trainer.num_nodes ({num_nodes}): srun has started"
            f" {n_tasks} tasks; it needs --nodes={num_nodes} --ntasks-per-node={devices}"
        )
    nodes = given("SLURM_STEP_NODELIST") or _told("SLURM_JOB_NODELIST")
    return Place(
        local_rank,
        node,
        devices,
        num_nodes,
        address=SLURMEnvironment.resolve_root_node_address(nodes),
        port=_port(default=_slurm_port()),
        one_per_device=one_per_device,
    )


def _place_by_hand(devices: int, num_nodes: int) -> Place:
    _told("NODE_RANK")
    node = number("NODE_RANK", 0)
    if node >= num_nodes:
        raise ConfigError(f"NODE_RANK ({node}) must be below trainer.num_nodes ({num_nodes})")
    local_rank, one_per_device = number("LOCAL_RANK", 0), False
    if given("LOCAL_RANK") and number("WORLD_SIZE", 1) == devices * num_nodes:
        if local_rank >= devices:
            raise ConfigError(
                f"LOCAL_RANK ({local_rank}) must be below trainer.devices ({devices})"
            )
        one_per_device = True
    return Place(
        local_rank if one_per_device else 0,
        node,
        devices,
        num_nodes,
        address=_told("MASTER_ADDR"),
        port=_port(),
        one_per_device=one_per_device,
    )


def _told(name: str) -> str:
    value = given(name)
    if not value:
        raise ConfigError(
            f"trainer.num_nodes: the environment variable {name} must be set on every machine;"
            " srun and torchrun set what is needed"
        )
    return value


def _port(default: int | None = None) -> int:
    if default is None:
        _told("MASTER_PORT")
    port = number("MASTER_PORT", default or 0)
    if not 0 < port < 2**16:
        raise ConfigError(f"MASTER_PORT ({port}) must be between 1 and 65535")
    return port


def _slurm_port() -> int:
    """A port for this step of a job: jobs and steps that share a machine take different ones."""
    step = number("SLURM_JOB_ID", 0) * 31 + number("SLURM_STEP_ID", 0)
    return PORTS[step % len(PORTS)]


def _open_file_of_this_start() -> int:
    """A temporary file, the same for all processes that a launcher has started here together."""
    parent = os.getppid()
    start = [str(os.getuid()), str(parent), started(parent)]
    start.extend(given(name) or "" for name in STARTED_WITH)
    name = hashlib.sha256("/".join(start).encode()).hexdigest()[:20]
    # Others may write to that folder as well: no link of theirs is followed.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(Path(tempfile.gettempdir(), f"firstlight-{name}"), flags, 0o600)


def _count(text: str | None) -> int:
    """`text` as a count; 1 if it is not one."""
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text) else 1
