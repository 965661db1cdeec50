"""A run that was stopped and continued is the run that was never stopped: bit for bit."""

from pathlib import Path

import pytest
import torch
from stop_at import Crash

from firstlight.cli import main
from firstlight.training.loggers.csv import read_rows
from firstlight.weights.checkpoint import load_plain

TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
TINY = [
    "train", "data=text", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16", "model.n_heads=2",
    "model.n_layers=1", "data.batch_size=8", "scheduler.warmup_steps=3", "trainer.max_steps=24",
    "trainer.eval_every_n_steps=8", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "callbacks.sample_generation.max_new_tokens=4", "callbacks.throughput.peak_flops=1e9",
]  # fmt: skip
MEASURED = ("tokens_per_second", "mfu")


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "stop_at")
    Path("text.txt").write_text(TEXT, encoding="utf-8")


def train(folder: str, *overrides: str) -> int:
    return main([*TINY, "data.path=text.txt", f"output_dir={folder}", *overrides])


def stop_and_resume(folder: str, stops: list[int], *overrides: str) -> None:
    first, *later = stops
    with pytest.raises(Crash):
        train(folder, *overrides, "+callbacks.stop._target_=stop_at.StopAt", f"+callbacks.stop.batch={first}")
    for batch in later:
        with pytest.raises(Crash):
            main(["train", f"resume={folder}", f"callbacks.stop.batch={batch}"])
    assert main(["train", f"resume={folder}", "~callbacks.stop"]) == 0


def assert_same_run(one: str, other: str) -> None:
    rows, others = read_rows(Path(one) / "metrics.csv"), read_rows(Path(other) / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(25))
    for row, twin in zip(rows, others, strict=True):
        assert {k: v for k, v in row.items() if k not in MEASURED} == {
            k: v for k, v in twin.items() if k not in MEASURED
        }
    for name in ("last", "best"):
        weights, twins = (load_plain(Path(f) / "checkpoints" / f"{name}.ckpt")["state_dict"] for f in (one, other))
        assert all(torch.equal(tensor, twins[key]) for key, tensor in weights.items())
    assert (Path(one) / "samples.txt").read_text() == (Path(other) / "samples.txt").read_text()


@pytest.mark.parametrize(
    ("stops", "overrides"),
    [
        pytest.param([13], [], id="after an evaluation"),
        pytest.param([13], ["callbacks.checkpoint.every_n_steps=1"], id="in the middle of an epoch"),
        pytest.param([6], ["callbacks.checkpoint.every_n_steps=2"], id="at the end of an epoch"),
        pytest.param([3, 5, 17], ["callbacks.checkpoint.every_n_steps=1"], id="three times, twice in one epoch"),
        pytest.param([20], ["trainer.accumulate_grad_batches=3", "callbacks.checkpoint.every_n_steps=1"],
                     id="within an accumulation"),
        pytest.param([10], ["data.drop_last=false", "data.num_workers=2"], id="with workers and ragged batches"),
        pytest.param([10], ["trainer.precision=bf16-mixed"], id="in bf16"),
    ],
)  # fmt: skip
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(stops, overrides):
    assert train("whole", *overrides) == 0
    stop_and_resume("parts", stops, *overrides)
    assert_same_run("whole", "parts")


def test_a_finished_run_can_be_trained_longer():
    longer = ["scheduler=constant"]
    no_warmup = [o for o in TINY if not o.startswith("scheduler.")]
    base = [*no_warmup, "data.path=text.txt", *longer]
    assert main([*base, "output_dir=whole"]) == 0
    assert main([*base, "output_dir=parts", "trainer.max_steps=16"]) == 0
    assert main(["train", "resume=parts", "trainer.max_steps=24"]) == 0
    assert_same_run("whole", "parts")


def test_every_checkpoint_is_plain_data_without_an_allow_list():
    assert train("run") == 0
    for name in ("last", "best"):
        torch.load(f"run/checkpoints/{name}.ckpt", weights_only=True)
