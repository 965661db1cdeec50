"""A batch in parts is the same batch; the largest part that fits is found without a trace."""

from functools import partial
from pathlib import Path

import pytest
import torch
from stop_at import Crash
from tiny_run import rows_of, same_weights, weights_of

from firstlight import memory_limits as limits
from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.manifest import read_manifest
from firstlight.cli import main
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.memory_limits import Memory, host_memory
from firstlight.optim.adamw import adamw
from firstlight.runs.run_folder import RunFolder
from firstlight.training import plan
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.memory import micro_batches
from firstlight.training.memory.micro_batches import cut, find_micro_batch_size, peak_memory
from firstlight.training.trainer import Trainer

pytestmark = pytest.mark.cpu

RAGGED = (
    "trainer.accumulate_grad_batches=2",
    "data.drop_last=false",
    "trainer.max_steps=8",
    "data.eval_batches=2",
)
IN_PARTS = "trainer.micro_batch_size=3"


def test_a_batch_is_cut_evenly_and_nothing_is_lost():
    batch = torch.arange(20).view(10, 2), torch.arange(20, 40).view(10, 2)
    for most, sizes in (
        (None, [10]),
        (10, [10]),
        (99, [10]),
        (9, [5, 5]),
        (4, [4, 3, 3]),
        (1, [1] * 10),
    ):
        parts = cut(batch, most)
        assert [len(inputs) for inputs, _ in parts] == sizes
        assert all(
            torch.equal(torch.cat(tensors), whole)
            for tensors, whole in zip(zip(*parts, strict=True), batch, strict=True)
        )
    assert len(cut((torch.empty(0, 2), torch.empty(0, 2)), 3)) == 1


def test_a_batch_in_parts_is_the_same_step(train):
    for folder, more in (("whole", ()), ("parts", (IN_PARTS,))):
        assert train(folder, *RAGGED, "model.drop_rate=0", *more) == 0
    whole, parts = rows_of("whole"), rows_of("parts")
    assert [(row["step"], row["tokens"], row["epoch"]) for row in whole] == [
        (row["step"], row["tokens"], row["epoch"]) for row in parts
    ]
    for row, twin in zip(whole, parts, strict=True):
        for name in (
            "train/batch_loss",
            "grad_norm",
            "train/loss",
            "val/loss",
            "val/bits_per_byte",
        ):
            assert not row[name] or float(twin[name]) == pytest.approx(float(row[name]), rel=2e-5)
    other = weights_of("parts")
    assert all(
        torch.allclose(tensor, other[key], atol=1e-5) for key, tensor in weights_of("whole").items()
    )


def test_a_run_in_parts_is_continued_exactly_and_the_parts_may_change(train):
    words = (*RAGGED, IN_PARTS, "model.drop_rate=0.2", "callbacks.checkpoint.every_n_steps=1")
    assert train("whole", *words) == 0
    stop = ("+callbacks.test._target_=stop_at.StopAt", "+callbacks.test.batch=11")
    with pytest.raises(Crash):
        train("parts", *words, *stop)
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert rows_of("parts") == rows_of("whole") and same_weights("parts", "whole")
    assert main(["train", "resume=parts", "trainer.max_steps=9", "trainer.micro_batch_size=2"]) == 0
    assert read_manifest(checkpoints_of(Path("parts"))[-1]).step == 9


UNEQUAL = (
    *(
        "data.shuffle=false",
        "data.drop_last=false",
        "data.train_ratio=0.5",
        "data.test_ratio=0",
        "model.drop_rate=0",
        "trainer.max_steps=4",
    ),
    *("trainer.gradient_clip_val=null", "optimizer.lr=1e-2"),
)
"""An epoch of this text has 30 windows: in batches of 20 they are 20 and 10."""


@pytest.mark.parametrize("parts", [(), ("trainer.micro_batch_size=7",)], ids=["whole", "in parts"])
@pytest.mark.one_in(2)
def test_a_step_of_unequal_batches_is_the_mean_over_all_its_tokens(train, parts):
    assert train("one", *UNEQUAL, "data.batch_size=30") == 0
    assert (
        train("two", *UNEQUAL, "data.batch_size=20", "trainer.accumulate_grad_batches=2", *parts)
        == 0
    )
    assert same_steps(rows_of("one"), rows_of("two"))
    other = weights_of("two")
    assert all(
        torch.allclose(tensor, other[key], atol=1e-5) for key, tensor in weights_of("one").items()
    )


def same_steps(rows, others):
    """Do two runs have the same losses and gradients, to rounding?"""
    names = ("train/batch_loss", "grad_norm", "train/loss", "val/loss")
    pairs = [
        (row[n], other[n]) for row, other in zip(rows, others, strict=True) for n in names if row[n]
    ]
    assert len(pairs) > len(rows)
    return all(float(other) == pytest.approx(float(value), rel=2e-5) for value, other in pairs)


@pytest.fixture
def probed(tiny_gpt, tiny_data):
    """A model, data in batches of 16 windows, and the memory that a whole step on n windows
    takes."""
    model = tiny_gpt(emb_dim=48, context_length=32, vocab_size=257, drop_rate=0.1)
    data = tiny_data(
        "The lamp went out, and the harbour was dark. " * 40, context_length=32, batch_size=16
    )
    data.setup()
    module = EvaluationModule(model, data.tokenizer.byte_lengths)
    optimizer = adamw(model, lr=1e-3)

    def step(n):
        module.cross_entropy(data.windows["train"][torch.arange(n)]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(1)
    model.train()
    trainer = Trainer(data=data, max_steps=1, eval_every_n_steps=1, accelerator="cpu", logger=False)
    return model, data, trainer, lambda n: peak_memory(torch.device("cpu"), lambda: step(n))


@pytest.mark.parametrize(
    ("fits", "expected"), [(5, 4), (6, 6), (7, 6), (11, 8), (16, 16), (40, 16)]
)
def test_the_largest_part_that_fits_is_found(probed, monkeypatch, fits, expected):
    model, data, trainer, taken_by = probed
    weights = sum(4 * p.numel() for p in model.parameters())
    free = taken_by(fits) * 1.01 - weights + 1000  # the probe's copy of the weights is given back
    monkeypatch.setitem(micro_batches.USED, "cpu", 1.0)
    monkeypatch.setattr(micro_batches, "free_memory", lambda _: max(free, 3 * weights))
    before, drawn = {key: t.clone() for key, t in model.state_dict().items()}, torch.get_rng_state()
    assert (
        find_micro_batch_size(model, data, CrossEntropy(), partial(adamw, lr=1e-3), trainer)
        == expected
    )
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(
        torch.equal(t, before[key]) and t.grad is None for key, t in model.state_dict().items()
    )


def test_what_auto_finds_is_kept_with_the_run_and_changes_nothing_else(train, monkeypatch):
    dropout = ("model.drop_rate=0.2", "trainer.max_steps=8")
    monkeypatch.setitem(micro_batches.USED, "cpu", 1.0)
    monkeypatch.setattr(micro_batches, "free_memory", lambda _: 200_000)
    assert train("found", *dropout, "trainer.micro_batch_size=auto") == 0
    found = RunFolder(Path("found")).config["trainer"]["micro_batch_size"]
    assert 1 <= found < 8
    monkeypatch.setattr(plan, "find_micro_batch_size", None)
    assert train("number", *dropout, f"trainer.micro_batch_size={found}") == 0
    assert rows_of("found") == rows_of("number") and same_weights("found", "number")
    assert main(["train", "resume=found", "trainer.max_steps=9"]) == 0


def test_a_window_that_does_not_fit_is_one_line_before_the_run(train, monkeypatch, capsys):
    for free in (1000, 90_000):  # less than the weights, less than a step
        monkeypatch.setattr(micro_batches, "free_memory", lambda _, free=free: free)
        assert train("run", "trainer.micro_batch_size=auto") == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "firstlight: trainer.micro_batch_size: a step on a single window of 16 tokens"
        )
        assert said.count("\n") == 1 and not Path("run").exists()


GROUPS = {
    "version 2": {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.max": "5000\n",
        "sys/fs/cgroup/a/memory.current": "3500\n",
        "sys/fs/cgroup/a/memory.stat": "anon 2000\ninactive_file 500\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "3000\n",
        "sys/fs/cgroup/a/b/memory.stat": "inactive_file 0\n",
    },
    "version 1, the host's path": {
        "proc/self/cgroup": "5:cpu:/x\n4:memory,hugetlb:/docker/1234\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "3500\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 900\ntotal_inactive_file 500\n",
    },
}


@pytest.mark.parametrize("files", GROUPS.values(), ids=GROUPS.keys())
def test_the_limit_of_a_container_is_the_memory_there_is(tmp_path, monkeypatch, files):
    for name, text in {**files, "proc/meminfo": "MemTotal: 90 kB\nMemAvailable:  80 kB\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    assert host_memory() == Memory("this container", limit=5000, free=2000)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1 kB\n")
    assert host_memory().free == 1024


def test_without_a_container_the_memory_is_the_computers(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    memory = host_memory()
    assert memory.of == "this computer" and memory.limit == memory.free > 10**8
