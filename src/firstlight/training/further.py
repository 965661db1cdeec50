"""The further processes of a run on several devices, launched by the first one of their machine.

Lightning's own launcher kills all of them, and the first, as soon as one ends, without a word.
"""

import subprocess
import sys
from pathlib import Path

from firstlight.processes import Place, given_environment


def launch(place: Place, port: int) -> dict[int, subprocess.Popen[bytes]]:
    """Start this command for every other device of this machine; return the processes by rank.

    The store, in which they meet, is at `port`. What tells them their run folder is in the
    environment (`processes.sharing`).
    """
    started: dict[int, subprocess.Popen[bytes]] = {}
    for local_rank in range(1, place.devices):
        own = {
            "LOCAL_RANK": str(local_rank),
            "NODE_RANK": str(place.node_rank),
            "WORLD_SIZE": str(place.world_size),
            "MASTER_ADDR": place.address,
            "MASTER_PORT": str(port),
        }
        rank = place.node_rank * place.devices + local_rank
        started[rank] = subprocess.Popen(_command(), env=given_environment() | own)
    return started


def _command() -> list[str]:
    """The command line of this process."""
    main = sys.modules["__main__"]
    if main.__spec__ is None:  # a script
        return [sys.executable, str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]
    return [sys.executable, "-m", main.__spec__.name, *sys.argv[1:]]
