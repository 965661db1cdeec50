"""With faults.so preloaded: fail the 1st, 2nd, 3rd, ... operation of a save until it completes;
print what happened.

usage: save_loop.py FOLDER
"""

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.folder_io import RECORD, CheckpointFolderIO
from firstlight.sources import load_checkpoint
from firstlight.training.callbacks.checkpoint import Checkpoint
from firstlight.training.resume import find_resumed

faults = ctypes.CDLL(None)
KINDS = {
    "ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES, "SIGINT": -signal.SIGINT,
    "SIGKILL": -signal.SIGKILL,
}  # fmt: skip
WEIGHTS = 20_000
TOKENIZER = {
    "name": "x",
    "pattern": r"[\s\S]",
    "tokens": [f"{b:02x}" for b in range(256)],
    "end_of_text": 256,
    "vocab_size": 257,
}


def state(step):
    """A checkpoint as Lightning gives it to its plugin, large enough for several writes a file."""
    filled = torch.full((WEIGHTS,), float(step))
    described = {"tokens": step, "monitor": "val/loss", "metrics": {}, "fingerprint": {}}
    return {
        "state_dict": {"model.weight": filled},
        "optimizer_states": [{"exp_avg": filled + 0.5}],
        "global_step": step,
        "epoch": 0,
        "loops": {},
        "callbacks": {},
        "lr_schedulers": [{"_last_lr": [0.1]}],
        RECORD: {
            "config": {},
            "tokenizer": TOKENIZER,
            "metrics": {},
            "skipped_steps": [0, 0],
            "manifest": described,
        },
    }


def save(run, step):
    CheckpointFolderIO().save_checkpoint(state(step), run / "checkpoints" / f"step_{step:08}")
    Checkpoint(keep_last=1, keep_best=0).remove_others(run, step)


def newest(run):
    """The step of the newest whole checkpoint, every number of it compared."""
    resumed = find_resumed(run)
    step = resumed.step
    assert torch.equal(
        load_checkpoint(resumed.checkpoint).state_dict["weight"],
        torch.full((WEIGHTS,), float(step)),
    )
    assert torch.equal(
        resumed.state["optimizer_states"][0]["exp_avg"], torch.full((WEIGHTS,), step + 0.5)
    )
    return step


def try_save(run, k, kind):
    """Save step 2 with the k-th operation failing; whether it says it is done, and how many
    operations it took.
    """
    faults.faults_arm(str(run).encode(), ctypes.c_long(k), KINDS[kind])
    try:
        save(run, 2)
        done = True
    except (OSError, KeyboardInterrupt):
        done = False
    return done, faults.faults_disarm()


def loop(run, kind):
    k, ends = 0, {"old": 0, "new": 0}
    while True:
        k += 1
        shutil.rmtree(run, ignore_errors=True)
        (run / "checkpoints").mkdir(parents=True)
        save(run, 1)
        if kind == "SIGKILL":
            child = os.fork()
            if child == 0:
                done, seen = try_save(run, k, kind)
                os._exit(0 if done and seen < k else 1)
            completed = os.waitpid(child, 0)[1] == 0
            done = completed
        else:
            done, seen = try_save(run, k, kind)
            completed = seen < k
        step = newest(run)
        assert step == 2 or not done, f"{kind} at {k}: said to be saved, but is not"
        ends["new" if step == 2 else "old"] += 1
        save(run, 3)
        assert newest(run) == 3
        left = [path.name for path in (run / "checkpoints").iterdir()]
        assert left == ["step_00000003"], f"{kind} at {k}: {left}"
        assert len(checkpoints_of(run)) == 1
        if completed:
            return {"operations": k - 1, **ends}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps({kind: loop(Path(sys.argv[1]).resolve() / "run", kind) for kind in KINDS}))
