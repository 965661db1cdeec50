"""`firstlight train` to which every text is a large one, whose tokens are kept.

Each process adds what it does to the file `noted`. Those of the ranks in SECOND_MACHINE have a
cache folder of their own; that of KILLED_RANK is killed when it begins to write tokens.
"""

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from firstlight.cli import main
from firstlight.data import documents_in_files
from firstlight.data.kept import KeptTokens
from firstlight.training.module import PretrainingModule

RANK = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))


def note(*words):
    with Path("noted").open("a") as stream:
        stream.write(" ".join([RANK, *words]) + "\n")


def mapped():
    """The inodes of the token files that this process has in its memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[4] for line in lines if line.endswith(".bin")})


@contextmanager
def writing(self, *arguments):
    note("encodes")
    with whole_writing(self, *arguments) as writer:
        time.sleep(1)  # so that the others come meanwhile
        if os.environ.get("KILLED_RANK") == RANK:
            os.kill(os.getpid(), signal.SIGKILL)
        yield writer


def on_train_end(self):
    note("maps", *mapped())
    whole_end(self)


whole_writing, KeptTokens.writing = KeptTokens.writing, writing
whole_end, PretrainingModule.on_train_end = PretrainingModule.on_train_end, on_train_end
documents_in_files.SMALL = 0
if RANK in os.environ.get("SECOND_MACHINE", ""):
    os.environ["FIRSTLIGHT_CACHE_DIR"] += "_of_the_second_machine"

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
