"""With faults.so preloaded: a run whose k-th operation in its folder fails, then resumed; print what happened.

usage: run_loop.py FOLDER KIND STRIDE [resumed]   (k = 1, 1 + STRIDE, ... until a run completes untouched)
"""

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_run import TINY, rows_of, same_weights

from firstlight.checkpoints.find import checkpoints_of
from firstlight.cli import main

faults = ctypes.CDLL(None)
KINDS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "SIGKILL": -signal.SIGKILL}
TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
SETTINGS = [*TINY, "trainer.max_steps=12", "callbacks.checkpoint.every_n_steps=3"]


def in_child(arguments, log, arm=None):
    """`firstlight` with `arguments` in a process of its own; its exit status and the operations it
    counted.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if arm:
            faults.faults_arm(*arm)
        try:
            code = main(arguments)
        except BaseException:
            faults.faults_disarm()
            os.write(2, traceback.format_exc().encode())
            os._exit(70)
        os.write(writing, str(faults.faults_disarm()).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(writing)
    seen = os.read(reading, 100)
    os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(seen or 0)


def arm_at(k, kind):
    return f"{Path('run').resolve()}/".encode(), ctypes.c_long(k), KINDS[kind]


def loop(kind, stride, of_resumed):
    assert in_child(["train", *SETTINGS, "output_dir=whole"], "whole.log")[0] == 0
    begin, go_on = ["train", *SETTINGS, "output_dir=run", "resume=auto"], ["train", "resume=run"]
    if of_resumed:  # the operations of a run that goes on after half of it
        _, n = in_child(begin, "run.log", arm_at(10**9, "SIGKILL"))
        shutil.rmtree("run")
        in_child(begin, "run.log", arm_at(n // 2, "SIGKILL"))
        shutil.copytree("run", "half")
    outcomes, k = Counter(), 1
    while True:
        shutil.rmtree("run", ignore_errors=True)
        if of_resumed:
            shutil.copytree("half", "run")
        code, seen = in_child(go_on if of_resumed else begin, "run.log", arm_at(k, kind))
        said = Path("run.log").read_text()
        assert code in (0, 1, 2, -9), said
        assert "Traceback" not in said, f"{kind} at {k}: {said}"
        begun = bool(checkpoints_of(Path("run")))
        finished = Path("run/model.safetensors").is_file()
        outcomes[
            f"exit {code}, {'finished' if finished else 'begun' if begun else 'no checkpoint yet'}"
        ] += 1
        if not finished:
            code, _ = in_child(begin, "again.log")  # the same command, whatever is left of the run
            assert code == 0, f"{kind} at {k}: {Path('again.log').read_text()}"
        assert rows_of("run") == rows_of("whole"), f"{kind} at {k}: rows differ"
        assert same_weights("run", "whole") and same_weights("run", "whole", best=True), (
            f"{kind} at {k}: weights"
        )
        if kind == "SIGKILL":
            same = Path("run/samples.txt").read_bytes() == Path("whole/samples.txt").read_bytes()
            assert same, f"{kind} at {k}: samples differ"
        assert not list(Path("run/checkpoints").glob(".*")) and not Path("run_2").exists()
        if 0 < seen < k:
            return {"operations": seen, "trials": sum(outcomes.values()), **outcomes}
        k += stride


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("text.txt").write_text(TEXT)
    print(json.dumps(loop(sys.argv[2], int(sys.argv[3]), len(sys.argv) > 4)))
