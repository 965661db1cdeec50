"""What a step takes on many devices that are not here: a model on paper, with ranges.

docs/plan.md has the formulas, what they were compared with, and what they cannot tell.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import FiniteNonNegative, FinitePositive, PositiveShare

Devices = Annotated[int, Field(gt=0, le=2**20)]
PerMachine = Annotated[int, Field(gt=0, le=1024)]
Two = Field(min_length=2, max_length=2)
Speed = FinitePositive | Annotated[list[FinitePositive], Two]
Latency = FiniteNonNegative | Annotated[list[FiniteNonNegative], Two]
Efficiency = PositiveShare | Annotated[list[PositiveShare], Two]
Part = Annotated[float, Field(ge=0, le=1)]
Overlap = Part | Annotated[list[Part], Two]
Strategy = Literal["ddp", "fsdp2"]

USED = 0.9
"""Fraction of a device's memory that tensors may take, as in training/memory/micro_batches.py."""
BUCKET = 25 * 2**20
"""Bytes of gradients that DDP exchanges together, by torch's default."""
GATHERED = 2
"""Blocks whose weights fsdp2 has whole at a time: that of the present pass, and the next one."""
FEW_TOKENS = 2048
"""With fewer tokens at once a device does not reach the MFU that was measured with more."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Machines with equal devices; see conf/cluster/*.yaml, where each value is explained.

    A list is a range, from the worse to the better value.

    Raises:
        ValueError: a range begins with its better end.
    """

    devices: Devices | Annotated[list[Devices], Field(min_length=1, max_length=64)]
    per_machine: PerMachine
    tflops: FinitePositive
    memory_gb: FinitePositive
    mfu: Efficiency
    inside_gb_per_s: Speed
    between_gb_per_s: Speed
    overlap: Overlap
    latency_us: Latency

    def __post_init__(self) -> None:
        for name in ("mfu", "inside_gb_per_s", "between_gb_per_s", "overlap"):
            worse, better = ends(getattr(self, name))
            if worse > better:
                raise ValueError(f"{name} ([{worse:g}, {better:g}]) must begin with the lower end")
        worse, better = ends(self.latency_us)
        if worse < better:
            raise ValueError(f"latency_us ([{worse:g}, {better:g}]) must begin with the higher end")

    @property
    def counts(self) -> list[int]:
        """The numbers of devices that are asked about, in order, each once."""
        given = self.devices if isinstance(self.devices, list) else [self.devices]
        return sorted(set(given))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run asks of devices, whatever these are."""

    n_parameters: int
    n_trained: int
    n_optimizer: int
    n_blocks: int
    n_in_blocks: int
    """Parameters of the blocks, all together; fsdp2 gathers them block by block."""
    bytes_per_number: int
    """Of weights, gradients and the optimizer's state."""
    flops_per_token: float
    context_length: int
    batch_size: int
    """Windows of a batch, which the devices share."""
    n_batches: int
    """Batches of a step."""
    max_steps: int
    micro_batch_size: int | None
    """Windows that a device takes at once; None: as many as fit."""
    virtual_shards: int | None = None
    """Shards of a batch, which a device takes one after another; None: one a device."""
    bytes_per_window: int
    """What each of these windows takes at the peak of a pass."""
    bytes_of_a_pass: int = 0
    """What a pass takes however many windows it has, such as weights cast to bfloat16."""
    is_elementwise: bool = True
    """Whether the optimizer can update a part of a matrix; fsdp2 needs it."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.n_batches * self.context_length


Range = tuple[float, float]
"""From the worse to the better end."""


@dataclass(frozen=True)
class Outlook:
    """What to expect of a number of devices; ranges are from the worse to the better end."""

    devices: int
    strategy: Strategy
    problem: str = ""
    """Why it cannot be. The figures below are then None, but for the memory that is missing."""
    windows_at_once: int | None = None
    n_parts: int | None = None
    """In so many parts a device takes its share of a batch."""
    memory_gb: float | None = None
    traffic_gb: float | None = None
    """What a device sends in a step, and receives as much."""
    step_seconds: Range | None = None
    tokens_per_second: Range | None = None
    efficiency: Range | None = None
    """Tokens a second and device, as a share of what one device alone would make."""
    hours: Range | None = None
    """Of all steps; without evaluations, checkpoints and the start."""
    note: str = ""


def ends(value: float | Sequence[float]) -> Range:
    """The worse and the better end of a range; a number is both."""
    if isinstance(value, int | float):
        return float(value), float(value)
    worse, better = value
    return float(worse), float(better)


def outlooks(work: Work, cluster: Cluster) -> Iterator[Outlook]:
    """Yield what to expect of each number of devices, with each strategy."""
    for devices in cluster.counts:
        yield outlook(work, cluster, devices, "ddp")
        if devices > 1:  # one device has all there is
            yield outlook(work, cluster, devices, "fsdp2")


def outlook(work: Work, cluster: Cluster, devices: int, strategy: Strategy) -> Outlook:
    """What to expect of so many devices."""
    if devices > work.batch_size:
        return Outlook(devices, strategy, f"more than the {work.batch_size} windows of a batch")
    if strategy == "fsdp2" and not work.is_elementwise:
        return Outlook(devices, strategy, "the optimizer's update needs whole matrices")
    n_shards = work.virtual_shards or devices
    if n_shards % devices:
        return Outlook(devices, strategy, f"they cannot share {n_shards} virtual shards")
    shards_each = n_shards // devices
    shard = math.ceil(work.batch_size / n_shards)
    fixed = work.bytes_of_a_pass + fixed_bytes(work, devices, strategy)
    room = USED * cluster.memory_gb * 1e9 - fixed
    at_once = min(shard, work.micro_batch_size or shard)
    if work.micro_batch_size is None:
        at_once = min(shard, max(int(room // work.bytes_per_window), 1))
    of_a_shard = math.ceil(shard / at_once)
    at_once = math.ceil(shard / of_a_shard)  # parts of equal size
    size, n_larger = divmod(work.batch_size, n_shards)
    share = shards_each * size + min(shards_each, n_larger)
    n_parts = of_a_shard * shards_each
    needed = fixed + at_once * work.bytes_per_window
    if at_once * work.bytes_per_window > room:
        return Outlook(
            devices,
            strategy,
            f"{needed / 1e9:,.1f} GB do not fit into {USED:.0%} of {cluster.memory_gb:g} GB",
            memory_gb=needed / 1e9,
        )
    timed = _timed(work, cluster, devices, strategy, share, n_parts)
    worse, better = timed.step
    few = at_once * work.context_length < FEW_TOKENS
    return Outlook(
        devices,
        strategy,
        windows_at_once=at_once,
        n_parts=n_parts,
        memory_gb=needed / 1e9,
        traffic_gb=traffic(work, devices, strategy, n_parts) / 1e9,
        step_seconds=timed.step,
        tokens_per_second=(work.tokens_per_step / worse, work.tokens_per_step / better),
        efficiency=timed.efficiency,
        hours=(work.max_steps * worse / 3600, work.max_steps * better / 3600),
        note=f"fewer than {FEW_TOKENS:,} tokens at once: less MFU than assumed" if few else "",
    )


def fixed_bytes(work: Work, devices: int, strategy: Strategy) -> float:
    """What a device holds whatever the size of its part of a batch."""
    numbers = work.n_parameters + work.n_trained + work.n_optimizer
    if devices == 1:
        return work.bytes_per_number * numbers
    if strategy == "ddp":
        buckets = work.n_trained  # gradients once more, as they are exchanged
        return work.bytes_per_number * (numbers + buckets)
    outside = work.n_parameters - work.n_in_blocks
    # Outside of blocks weights stay whole during a pass, and their gradients until they are
    # exchanged; blocks are gathered one by one.
    whole = 2 * outside + 2 * GATHERED * work.n_in_blocks / max(work.n_blocks, 1)
    return work.bytes_per_number * (numbers / devices + whole)


def traffic(work: Work, devices: int, strategy: Strategy, n_parts: int) -> float:
    """Bytes that a device sends in a step.

    ddp: the sum of all gradients, once a step, in a ring. fsdp2: for each part of a batch the
    blocks are gathered for either pass, the rest once, and the gradients are summed.
    """
    if devices == 1:
        return 0.0
    ring = (devices - 1) / devices
    if strategy == "ddp":
        return 2 * ring * work.bytes_per_number * work.n_trained
    outside = work.n_parameters - work.n_in_blocks
    numbers = 2 * work.n_in_blocks + outside + work.n_trained
    return ring * work.bytes_per_number * numbers * n_parts * work.n_batches


def waits(work: Work, cluster: Cluster, devices: int, strategy: Strategy, n_parts: int) -> Range:
    """How often in a step a message must arrive before the next is sent: in rings, and in trees."""
    if devices == 1:
        return 0.0, 0.0
    machines = math.ceil(devices / cluster.per_machine)
    in_a_ring = machines - 1 + min(devices, cluster.per_machine) - 1
    in_a_tree = math.log2(devices)
    if strategy == "ddp":
        exchanges = 2 * math.ceil(work.bytes_per_number * work.n_trained / BUCKET)
    else:
        # A block is gathered for either pass and its gradients are summed; the rest is gathered
        # once.
        exchanges = (3 * work.n_blocks + 2) * n_parts * work.n_batches
    return exchanges * max(in_a_ring, in_a_tree), exchanges * in_a_tree


@dataclass(frozen=True)
class _Timed:
    step: Range
    efficiency: Range


def _timed(
    work: Work,
    cluster: Cluster,
    devices: int,
    strategy: Strategy,
    share: int,
    n_parts: int,
) -> _Timed:
    """Seconds of a step, and the efficiency, with each end of each range."""
    sent = traffic(work, devices, strategy, n_parts)
    inside = devices <= cluster.per_machine
    speed = ends(cluster.inside_gb_per_s if inside else cluster.between_gb_per_s)
    n_waits = waits(work, cluster, devices, strategy, n_parts)
    latency, overlap = ends(cluster.latency_us), ends(cluster.overlap)
    # Of the device with the largest share, for which the others wait.
    tokens = share * work.n_batches * work.context_length
    steps: list[float] = []
    efficiencies: list[float] = []
    # Of the network everything is at its worse end, or everything at its better one. A faster
    # device waits longer for it: which end of the MFU is better for the efficiency is not known
    # before.
    for mfu, end in product(ends(cluster.mfu), (0, 1)):
        rate = mfu * cluster.tflops * 1e12
        computing = work.flops_per_token * tokens / rate
        exchanging = sent / (speed[end] * 1e9) + n_waits[end] * latency[end] / 1e6
        seconds = computing + max(0.0, exchanging - overlap[end] * computing)
        alone = work.flops_per_token * work.tokens_per_step / devices / rate
        steps.append(seconds)
        efficiencies.append(alone / seconds)
    return _Timed((max(steps), min(steps)), (min(efficiencies), max(efficiencies)))
