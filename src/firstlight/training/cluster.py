"""Lightning's view of the processes of a run: those that firstlight knows, and no others."""

from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from firstlight import processes
from firstlight.processes import Place


class OwnProcesses(LightningEnvironment):
    """Keeps a Trainer from detecting SLURM, LSF, MPI or torchrun and following their settings.

    Where this process stands is decided before a Trainer is made (`launchers.find_place`), and the
    process group is there before it trains (training/peers.py).
    """

    def __init__(self) -> None:
        super().__init__()
        self.place = processes.place() or Place(0, 0, 1, 1)
        self.set_global_rank(self.place.rank)
        self.set_world_size(self.place.world_size)

    @property
    def creates_processes_externally(self) -> bool:
        # Lightning would launch them, but would end all without a word if one ended.
        return True

    @property
    def main_address(self) -> str:
        return self.place.address

    @property
    def main_port(self) -> int:
        return self.place.port

    def local_rank(self) -> int:
        return self.place.local_rank

    def node_rank(self) -> int:
        return self.place.node_rank
