"""A run that was stopped and continued is the run that was never stopped: bit for bit."""

from pathlib import Path

import pytest
import torch
from conftest import rows_of, same_weights
from stop_at import Crash

from firstlight.cli import main

SAVE_ALWAYS = "callbacks.checkpoint.every_n_steps=1"
COSINE = ["scheduler=warmup_cosine", "scheduler.warmup_steps=3"]


def stop_and_resume(train, folder, stops, *overrides):
    first, *later = stops
    with pytest.raises(Crash):
        train(folder, *overrides, "+callbacks.stop._target_=stop_at.StopAt", f"+callbacks.stop.batch={first}")
    for batch in later:
        with pytest.raises(Crash):
            main(["train", f"resume={folder}", f"callbacks.stop.batch={batch}"])
    assert main(["train", f"resume={folder}", "~callbacks.stop"]) == 0


def assert_same_run(one, other):
    assert [int(row["step"]) for row in rows_of(one)] == list(range(25))
    assert rows_of(one) == rows_of(other)
    assert same_weights(one, other, "last")
    assert same_weights(one, other, "best")
    assert Path(one, "samples.txt").read_text() == Path(other, "samples.txt").read_text()


@pytest.mark.parametrize(
    ("stops", "overrides"),
    [
        pytest.param([13], COSINE, id="after an evaluation"),
        pytest.param([13], [*COSINE, SAVE_ALWAYS], id="in the middle of an epoch"),
        pytest.param([6], ["callbacks.checkpoint.every_n_steps=2"], id="at the end of an epoch"),
        pytest.param([3, 5, 17], [SAVE_ALWAYS], id="three times, twice in one epoch"),
        pytest.param([20], ["trainer.accumulate_grad_batches=3", SAVE_ALWAYS], id="within an accumulation"),
        pytest.param([10], ["data.drop_last=false", "data.num_workers=2"], id="with workers and ragged batches"),
        pytest.param([10], ["trainer.precision=bf16-mixed"], id="in bf16"),
    ],
)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(train, stops, overrides):
    assert train("whole", *overrides) == 0
    stop_and_resume(train, "parts", stops, *overrides)
    assert_same_run("whole", "parts")


def test_a_finished_run_can_be_trained_longer(train):
    assert train("whole") == 0
    assert train("parts", "trainer.max_steps=16") == 0
    assert main(["train", "resume=parts", "trainer.max_steps=24"]) == 0
    assert_same_run("whole", "parts")


def test_every_checkpoint_is_plain_data_without_an_allow_list(train):
    assert train("run", "trainer.max_steps=2") == 0
    for name in ("last", "best"):
        torch.load(f"run/checkpoints/{name}.ckpt", weights_only=True)


def test_other_data_is_refused_when_a_run_goes_on(train, capsys):
    with pytest.raises(Crash):
        train("run", "+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=10")
    Path("text.txt").write_text("Another text altogether, of much the same length as the first. " * 15)
    assert main(["train", "resume=run", "~callbacks.stop"]) == 2
    assert "the data has changed" in capsys.readouterr().err
