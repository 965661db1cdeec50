"""With faults.so preloaded: a run whose k-th operation in its folder fails, then resumed; print what happened.

usage: run_loop.py FOLDER KIND STRIDE   (k = 1, 1 + STRIDE, ... until a run completes untouched)
"""

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_run import TINY, rows_of, same_weights

from firstlight.cli import main
from firstlight.weights.find import checkpoints_of

faults = ctypes.CDLL(None)
KINDS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "SIGKILL": -signal.SIGKILL}
TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
SETTINGS = [*TINY, "trainer.max_steps=12", "callbacks.checkpoint.every_n_steps=3"]


def in_child(arguments, log, arm=None):
    """`firstlight` with `arguments` in a process of its own; its exit status and the operations it counted."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if arm:
            faults.faults_arm(*arm)
        code = main(arguments)
        os.write(writing, str(faults.faults_disarm()).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(writing)
    seen = os.read(reading, 100)
    os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(seen or 0)


def loop(kind, stride):
    assert in_child(["train", *SETTINGS, "output_dir=whole"], "whole.log")[0] == 0
    outcomes, k = Counter(), 1
    while True:
        shutil.rmtree("run", ignore_errors=True)
        arm = (str(Path("run").resolve()).encode(), ctypes.c_long(k), KINDS[kind])
        code, seen = in_child(["train", *SETTINGS, "output_dir=run"], "run.log", arm)
        said = Path("run.log").read_text()
        assert code in (0, 1, 2, -9), said
        assert "Traceback" not in said, f"{kind} at {k}:\\n{said}"
        begun = bool(checkpoints_of(Path("run")))
        finished = Path("run/model.safetensors").is_file()
        outcomes[f"exit {code}, {'finished' if finished else 'begun' if begun else 'no checkpoint yet'}"] += 1
        if not finished:
            if not begun:
                shutil.rmtree("run", ignore_errors=True)
            code, _ = in_child(["train", *(["resume=run"] if begun else [*SETTINGS, "output_dir=run"])], "again.log")
            assert code == 0, f"{kind} at {k}: {Path('again.log').read_text()}"
        assert rows_of("run") == rows_of("whole"), f"{kind} at {k}: rows differ"
        assert same_weights("run", "whole") and same_weights("run", "whole", best=True), f"{kind} at {k}: weights"
        if kind == "SIGKILL":
            same = Path("run/samples.txt").read_bytes() == Path("whole/samples.txt").read_bytes()
            assert same, f"{kind} at {k}: samples differ"
        assert not list(Path("run/checkpoints").glob(".*"))
        if 0 < seen < k:
            return {"operations": seen, "trials": sum(outcomes.values()), **outcomes}
        k += stride


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("text.txt").write_text(TEXT)
    print(json.dumps(loop(sys.argv[2], int(sys.argv[3]))))
