"""Lightning's view of the processes of a run: those that firstlight starts, and no others."""

from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from firstlight import processes
from firstlight.errors import ConfigError, shorten


class OwnProcesses(LightningEnvironment):
    """Keeps a Trainer from detecting SLURM, LSF, MPI or torchrun and following their settings.

    A run on several machines (`num_nodes`) is started once on each, with NODE_RANK, MASTER_ADDR and
    MASTER_PORT in the environment; on one machine nothing of the environment counts.
    """

    def __init__(self, num_nodes: int = 1) -> None:
        super().__init__()
        self.num_nodes = num_nodes

    @property
    def creates_processes_externally(self) -> bool:
        # What the first process has launched must not launch again.
        return processes.is_further()

    @property
    def main_address(self) -> str:
        if self._is_told:
            return _told("MASTER_ADDR")
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        if self._is_told:
            _told("MASTER_PORT")
            port = processes.number("MASTER_PORT", 0)
            if not 0 < port < 2**16:
                raise ConfigError(f"MASTER_PORT ({port}) must be between 1 and 65535")
            return port
        # A free port: two runs on one machine must not meet at the same one.
        return super().main_port

    def local_rank(self) -> int:
        return processes.local_rank()

    def node_rank(self) -> int:
        if self.num_nodes == 1:
            return 0
        _told("NODE_RANK")
        rank = processes.number("NODE_RANK", 0)
        if rank >= self.num_nodes:
            raise ConfigError(
                f"NODE_RANK ({rank}) must be below trainer.num_nodes ({self.num_nodes})"
            )
        return rank

    @property
    def _is_told(self) -> bool:
        """Whether the environment gives the address and the port.

        The first process gives them to the further ones, the user to several machines.
        """
        return self.num_nodes > 1 or processes.is_further()


def _told(name: str) -> str:
    value = processes.given(name)
    if not value:
        raise ConfigError(
            f"trainer.num_nodes: the environment variable {shorten(name)} must be set on every"
            " machine"
        )
    return value
