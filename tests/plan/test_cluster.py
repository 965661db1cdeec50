"""The model of a cluster on paper: its limits, its arithmetic, and published figures."""

import runpy
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from firstlight.compose.compose import compose_config
from firstlight.conf_files import conf_dir
from firstlight.config import check_config
from firstlight.plan.cluster import Cluster, Work, fixed_bytes, outlook, outlooks, traffic, waits

SURE = Cluster(
    devices=[1, 8, 64],
    per_machine=8,
    tflops=1000,
    memory_gb=80,
    mfu=0.5,
    inside_gb_per_s=200,
    between_gb_per_s=20,
    overlap=0,
    latency_us=0,
)
"""Every range is a single value."""
WORK = Work(
    n_parameters=1_000_000_000,
    n_trained=1_000_000_000,
    n_optimizer=2_000_000_000,
    n_blocks=10,
    n_in_blocks=900_000_000,
    bytes_per_number=4,
    flops_per_token=6e9,
    context_length=1000,
    batch_size=640,
    n_batches=2,
    max_steps=3600,
    micro_batch_size=5,
    bytes_per_window=10**9,
)


def test_one_device_computes_and_exchanges_nothing():
    row = outlook(WORK, SURE, 1, "ddp")
    # 640 x 2 windows of 1,000 tokens, 6e9 operations each, at 5e14 a second.
    assert row.step_seconds == pytest.approx((15.36, 15.36))
    assert (row.traffic_gb, row.windows_at_once, row.n_parts) == (0, 5, 128)
    assert row.efficiency == pytest.approx((1, 1))
    assert row.memory_gb == pytest.approx(16 + 5)
    assert row.hours == pytest.approx((15.36, 15.36))


def test_ddp_sends_each_gradient_twice_less_its_own_part():
    row = outlook(WORK, SURE, 8, "ddp")
    assert row.traffic_gb == pytest.approx(2 * 7 / 8 * 4)
    # Within a machine at 200 GB/s, after the computing.
    assert row.step_seconds[0] == pytest.approx(15.36 / 8 + 7 / 200)
    across = outlook(WORK, SURE, 64, "ddp")
    assert across.step_seconds[0] == pytest.approx(15.36 / 64 + 2 * 63 / 64 * 4 / 20)
    # Weights, gradients, two moments, and gradients once more in buckets.
    assert row.memory_gb == across.memory_gb == pytest.approx(20 + 5)


def test_fsdp2_gathers_blocks_twice_and_the_rest_once_for_every_part():
    n_parts = 16  # 80 windows a device, 5 at once
    sent = 7 / 8 * 4 * (2 * 0.9 + 0.1 + 1) * n_parts * 2
    row = outlook(WORK, SURE, 8, "fsdp2")
    assert row.n_parts == n_parts
    assert row.traffic_gb == pytest.approx(sent)
    # A part of everything; what is outside of blocks, and two blocks, whole with their gradients.
    assert fixed_bytes(WORK, 8, "fsdp2") == pytest.approx(16e9 / 8 + 4e9 * 2 * (0.1 + 2 * 0.09))


def test_what_is_exchanged_while_it_computes_takes_no_time():
    hidden = outlook(WORK, replace(SURE, overlap=1), 8, "ddp")
    assert hidden.efficiency == pytest.approx((1, 1))


def test_each_message_waits_for_the_one_before_it():
    late = replace(SURE, latency_us=10)
    for strategy in ("ddp", "fsdp2"):
        more = outlook(WORK, late, 64, strategy)
        less = outlook(WORK, SURE, 64, strategy)
        n_waits = waits(WORK, late, 64, strategy, less.n_parts)[0]
        assert more.step_seconds[0] - less.step_seconds[0] == pytest.approx(n_waits * 1e-5)
    # 8 machines in a ring, 8 devices in each; 160 buckets of 25 MiB, out and back
    assert waits(WORK, late, 64, "ddp", 1) == (153 * 2 * (7 + 7), 153 * 2 * 6)


def test_the_slowest_device_decides():
    uneven = replace(WORK, batch_size=9)
    assert outlook(uneven, SURE, 8, "ddp").efficiency[1] < 9 / 16


def test_a_range_is_the_worst_and_the_best_of_its_ends():
    wide = replace(SURE, mfu=[0.3, 0.5], between_gb_per_s=[5, 40], overlap=[0, 0.5])
    row = outlook(WORK, wide, 64, "ddp")
    worst = replace(SURE, mfu=0.3, between_gb_per_s=5)
    best = replace(SURE, mfu=0.5, between_gb_per_s=40, overlap=0.5)
    assert row.step_seconds[0] == outlook(WORK, worst, 64, "ddp").step_seconds[0]
    assert row.step_seconds[1] == outlook(WORK, best, 64, "ddp").step_seconds[0]
    # A fast device waits longer for a slow network.
    waiting = replace(SURE, mfu=0.5, between_gb_per_s=5)
    assert row.efficiency[0] == outlook(WORK, waiting, 64, "ddp").efficiency[0]


def test_what_does_not_fit_or_cannot_be_shared_says_why():
    assert "windows of a batch" in outlook(WORK, SURE, 1000, "ddp").problem
    too_large = asdict(outlook(WORK, replace(SURE, memory_gb=16), 1, "ddp"))
    assert "do not fit" in too_large["problem"] and too_large["memory_gb"] > 16
    figures = ("windows_at_once", "traffic_gb", "step_seconds", "efficiency", "hours")
    assert {too_large[name] for name in figures} == {None}
    assert not outlook(WORK, replace(SURE, memory_gb=16), 8, "fsdp2").problem
    assert (
        "whole matrices" in outlook(replace(WORK, is_elementwise=False), SURE, 8, "fsdp2").problem
    )


def test_without_a_size_of_parts_as_many_windows_as_fit_are_taken_at_once():
    free = replace(WORK, micro_batch_size=None)
    row = outlook(free, SURE, 1, "ddp")
    # 16 GB are taken; of the 56 windows that fit beside them 12 parts of equal size are made.
    assert (row.windows_at_once, row.n_parts, row.memory_gb) == (54, 12, 70)
    assert outlook(replace(free, batch_size=3), SURE, 1, "ddp").windows_at_once == 3


def test_rows_come_in_the_order_of_devices_each_once():
    cluster = replace(SURE, devices=[8, 1, 8])
    assert [(row.devices, row.strategy) for row in outlooks(WORK, cluster)] == [
        (1, "ddp"),
        (8, "ddp"),
        (8, "fsdp2"),
    ]


@pytest.mark.parametrize("name", ["mfu", "inside_gb_per_s", "between_gb_per_s", "overlap"])
def test_a_range_that_begins_with_its_better_end_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} .* must begin with the lower end"):
        replace(SURE, **{name: [0.6, 0.4]})
    with pytest.raises(ValueError, match=r"latency_us .* must begin with the higher end"):
        replace(SURE, latency_us=[1, 2])


def test_virtual_shards_are_computed_one_after_another():
    shards = replace(WORK, batch_size=64, virtual_shards=16, micro_batch_size=3)
    row = outlook(shards, SURE, 8, "ddp")
    assert (row.windows_at_once, row.n_parts) == (2, 4)  # two shards of 4 windows, in parts of 2
    assert "cannot share 16 virtual shards" in outlook(shards, SURE, 3, "ddp").problem


@pytest.mark.parametrize(
    "option", [file.stem for file in sorted(Path(conf_dir(), "cluster").glob("*.yaml"))]
)
def test_every_cluster_of_the_configuration_is_a_valid_one(option):
    section = compose_config("plan", [f"cluster={option}"])["cluster"]
    cluster = Cluster(**check_config(section, Cluster, "cluster"))
    for row in outlooks(WORK, cluster):
        assert row.problem or row.step_seconds[0] >= row.step_seconds[1] > 0


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def published():
    """The script that compares the model with KempnerForge's benchmarks: 7B on 4 H200 a machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return runpy.run_path(str(BENCHMARKS / "scaling.py"))


@pytest.mark.parametrize("devices", [2, 4, 8, 32])
def test_published_efficiencies_are_within_three_points_of_the_range(published, devices):
    """Of another program, with bfloat16 in what is exchanged, windows of 4,096 tokens."""
    work = published["kempnerforge"](devices)
    worse, better = outlook(work, published["H200"], devices, "fsdp2").efficiency
    assert worse - 0.03 <= published["KEMPNERFORGE"][devices] <= better
    assert traffic(work, devices, "fsdp2", 1) > 0
