"""A run on two machines, which here are two network namespaces, that loses one of them.

    python benchmarks/two_machines.py

It needs Linux, root and iproute2. torchrun starts a process in each namespace. The second one is
killed, stopped, or its link is cut; then it prints after how long each side ended and with which
words, and whether the resumed run is the run that lost nothing.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from firstlight.runs.run_folder import RunFolder

NODES = (("flA", "flvA", "10.77.31.1"), ("flB", "flvB", "10.77.31.2"))
"""Namespace, device and address of each machine."""
WORDS = [
    "data=text",
    "data.path=text.txt",
    "tokenizer=bytes",
    "model.context_length=16",
    "model.emb_dim=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "data.batch_size=8",
    "scheduler=constant",
    "trainer.num_nodes=2",
    "trainer.eval_every_n_steps=50",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "callbacks.checkpoint.every_n_steps=10",
    "~callbacks.plots",
    "~callbacks.sample_generation",
]
MEASURED = ("tokens_per_second", "mfu")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def make_machines():
    """Two namespaces with a link between them."""
    remove_machines()
    for namespace, _, _ in NODES:
        ip("netns", "add", namespace)
    ip("link", "add", NODES[0][1], "type", "veth", "peer", "name", NODES[1][1])
    for namespace, device, address in NODES:
        ip("link", "set", device, "netns", namespace)
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
        ip("-n", namespace, "link", "set", device, "up")
        ip("-n", namespace, "link", "set", "lo", "up")


def remove_machines():
    for namespace, _, _ in NODES:
        subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def start(node, words, port):
    """torchrun on one machine; its output goes to a file."""
    namespace, device, _ = NODES[node]
    command = [
        *("ip", "netns", "exec", namespace, sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}", f"--master-port={port}"),
        *(f"--master-addr={NODES[0][2]}", "-m", "firstlight", "train", *words),
    ]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": device, "OMP_NUM_THREADS": "1"}
    with Path(f"node{node}.log").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def further_process(torchrun):
    """The process of firstlight that `torchrun` has started (`ip` replaces itself by it)."""
    found = subprocess.run(
        ["pgrep", "-P", str(torchrun.pid)], capture_output=True, text=True, check=False
    )
    return int(found.stdout.split()[0])


def rows(folder):
    return [
        {key: value for key, value in row.items() if key not in MEASURED}
        for row in RunFolder(Path(folder)).rows
    ]


def lose(what, args, port):
    """Lose the second machine in the middle; how long the first one took to end, and its words."""
    words = [
        *WORDS,
        f"output_dir={what}",
        f"trainer.timeout={args.timeout}",
        "trainer.max_steps=100000",
    ]
    sides = [start(node, words, port) for node in (0, 1)]
    while len(rows(what)) < 25:
        assert all(side.poll() is None for side in sides), Path("node0.log").read_text()
        time.sleep(0.2)
    process, began = further_process(sides[1]), time.monotonic()
    if what == "kill":
        os.kill(process, signal.SIGKILL)
    elif what == "stop":
        os.kill(process, signal.SIGSTOP)
    else:
        ip("-n", NODES[1][0], "link", "set", NODES[1][1], "down")
    worker = further_process(sides[0])
    while (
        Path(f"/proc/{worker}/cmdline").exists()
        and Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z"
    ):
        time.sleep(0.1)
        assert time.monotonic() - began < args.timeout + 60
    seconds = time.monotonic() - began
    if what == "stop":
        os.kill(process, signal.SIGKILL)
    if what == "cut":
        ip("-n", NODES[1][0], "link", "set", NODES[1][1], "up")
    for side in sides:
        side.terminate()
        side.wait(timeout=120)
    said = [
        line
        for line in Path("node0.log").read_text().splitlines()
        if line.startswith("firstlight: rank")
    ]
    return seconds, said[-1] if said else "(no line)"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=20, help="trainer.timeout, in seconds")
    parser.add_argument("--steps", type=int, default=60, help="of the run that is resumed")
    args = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    Path("text.txt").write_text("The lamp was lit, and the lamp went out. " * 40)
    make_machines()
    failed = []
    try:
        length = ["trainer.max_steps=100000"]
        for number, what in enumerate(("kill", "stop", "cut")):
            seconds, said = lose(what, args, 29_610 + number)
            folders = sorted(path.name for path in Path().iterdir() if path.is_dir())
            print(f"{what}: ended after {seconds:.1f} s (trainer.timeout {args.timeout:g}): {said}")
            if seconds > args.timeout + 10 or "rank 1" not in said or f"{what}_2" in folders:
                failed.append(what)
        last = max(int(row["step"]) for row in rows("cut")) + args.steps
        length = [f"trainer.max_steps={last}"]
        for words, port in (
            (["resume=cut", *length], 29_620),
            ([*WORDS, "output_dir=whole", *length], 29_621),
        ):
            sides = [start(node, words, port) for node in (0, 1)]
            assert [side.wait(timeout=600) for side in sides] == [0, 0], Path(
                "node0.log"
            ).read_text()
        same = rows("cut") == rows("whole")
        print(
            f"resumed: {last} steps, {'equal' if same else 'NOT equal'} to the run that lost nothing"
        )
        if not same:
            failed.append("resumed")
    finally:
        remove_machines()
        shutil.rmtree(Path.cwd(), ignore_errors=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
