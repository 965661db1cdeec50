"""Measure what `cluster.inside_gb_per_s`, `between_gb_per_s`, `latency_us` and `overlap` ask for.

Run it on the devices that a run would have, with torchrun; NCCL on GPUs, gloo on CPUs:

    torchrun --standalone --nproc-per-node=8 benchmarks/collectives.py
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=one:29500 \\
        --rdzv-id=7 benchmarks/collectives.py
    torchrun --standalone --nproc-per-node=2 benchmarks/collectives.py --megabytes 32

Each figure is the best of several rounds: whatever else the machines do only makes them slower. GB/s
are what a device sends: of N bytes and W devices 2 (W - 1) / W x N in an all-reduce, and half of
that in an all-gather or a reduce-scatter.
"""

import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from options import described, positive

ROUNDS = 8


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--megabytes", type=positive, default=256, help="of each message")
    args = parser.parse_args()
    on_gpus = torch.cuda.is_available()
    device = torch.device("cpu")
    if on_gpus:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpus else "gloo")
    world = dist.get_world_size()
    # Divisible by the number of devices, for the parts of an all-gather.
    n = args.megabytes * 2**20 // 4 // world * world
    whole = torch.ones(n, device=device)
    part = torch.ones(n // world, device=device)
    sent = 4 * n * (world - 1) / world
    found = {
        "all-reduce": 2 * sent / _best(lambda: dist.all_reduce(whole), device),
        "all-gather": sent / _best(lambda: dist.all_gather(list(whole.chunk(world)), part), device),
    }
    one = torch.ones(1, device=device)
    latency = _best(lambda: dist.all_reduce(one), device)
    overlap = _overlap(whole, device)
    if dist.get_rank() == 0:
        print(f"{world} devices, {args.megabytes} MB, {device.type}, {dist.get_backend()}")
        for name, speed in found.items():
            print(f"{name:<11} {speed / 1e9:8.2f} GB/s sent by each device")
        print(f"an all-reduce of one number takes {1e6 * latency:.0f} us")
        print(f"overlap     {overlap:8.2f} of the shorter of computing and exchanging")
    dist.destroy_process_group()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of `run`, which all devices begin together."""
    dist.barrier()
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _best(run: Callable[[], object], device: torch.device) -> float:
    run()  # the first makes connections
    return min(_seconds(run, device) for _ in range(ROUNDS))


def _overlap(message: torch.Tensor, device: torch.device) -> float:
    """The part of an exchange that goes on while the device multiplies matrices."""
    size = 4096 if device.type == "cuda" else 512
    matrix = torch.ones(size, size, device=device)
    exchange = _best(lambda: dist.all_reduce(message), device)
    once = _best(lambda: matrix @ matrix, device)
    n_products = max(round(exchange / once), 1)

    def compute() -> None:
        for _ in range(n_products):
            matrix @ matrix

    def both() -> None:
        work = dist.all_reduce(message, async_op=True)
        compute()
        assert work is not None
        work.wait()

    alone, together = _best(compute, device), _best(both, device)
    hidden = alone + exchange - together
    return max(0.0, min(hidden / min(alone, exchange), 1.0))


if __name__ == "__main__":
    main()
