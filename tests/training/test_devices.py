"""Several processes train on the same global batches as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import TINY, rows_of, same_weights

from firstlight.runs.run_folder import RunFolder

pytestmark = pytest.mark.cpu


def test_two_processes_train_what_one_trains(train):
    overrides = [
        "model.drop_rate=0",
        "trainer.max_steps=10",
    ]  # dropout draws by process: masks would differ
    assert train("one", *overrides) == 0
    subprocess.run(
        [sys.executable, "-m", "firstlight", "train", *TINY, "output_dir=two", *overrides,
         "trainer.devices=2", "trainer.strategy=ddp", "trainer.micro_batch_size=3"],
        check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert not Path("two_2").exists()
    one, two = rows_of("one"), rows_of("two")
    assert len(two) == 11
    for row, twin in zip(one, two, strict=True):
        for name in ("train/loss", "val/loss", "train/batch_loss", "grad_norm"):
            if row[name]:
                assert float(twin[name]) == pytest.approx(float(row[name]), abs=2e-5)
    assert len(RunFolder(Path("two")).rows) == 11


@pytest.mark.long
def test_two_processes_share_a_batch_that_they_cannot_divide(train):
    """Batches of 3 windows and of 1: a process has 2 or 1 of them, or 1 or none. The step is that
    of all 4.
    """
    Path("text.txt").write_text(
        "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 2
    )
    overrides = [
        "metrics=[default,top1_accuracy]",
        *(
            "model.drop_rate=0",
            "data.shuffle=false",
            "data.drop_last=false",
            "data.train_ratio=0.45",
        ),
        *("trainer.max_steps=4", "trainer.eval_every_n_steps=2", "trainer.gradient_clip_val=null"),
    ]
    assert train("one", *overrides, "data.batch_size=4") == 0
    command = [
        sys.executable,
        "-m",
        "firstlight",
        "train",
        *TINY,
        "output_dir=two",
        *overrides,
        "data.batch_size=3",
    ]
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accumulate_grad_batches=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *devices], check=True, timeout=300, env=environment)
    for row, twin in zip(rows_of("one"), rows_of("two"), strict=True):
        for name in ("tokens", "train/batch_loss", "grad_norm", "val/loss", "val/bits_per_byte"):
            if row[name]:
                assert float(twin[name]) == pytest.approx(float(row[name]), rel=2e-5)
        if row[
            "val/top1_accuracy"
        ]:  # but for a token of which two ids are as probable, to rounding
            assert float(twin["val/top1_accuracy"]) == pytest.approx(
                float(row["val/top1_accuracy"]), abs=1.1 / 90
            )


@pytest.mark.long
def test_two_processes_stop_together_and_go_on_exactly(train):
    two = ["trainer.devices=2", "trainer.strategy=ddp", "callbacks.checkpoint.every_n_steps=4"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def run(*arguments):
        command = [sys.executable, "-m", "firstlight", "train", *arguments]
        return subprocess.run(
            command, timeout=300, env=environment, capture_output=True, text=True, check=False
        )

    whole = run(*TINY, *two, "output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    stop = ["+callbacks.stop._target_=stop_at.SignalFirstAt", "+callbacks.stop.batch=13"]
    stopped = run(*TINY, *two, *stop, "output_dir=parts")
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stdout.count("train resume=parts") == 1
    resumed = run("resume=parts", "~callbacks.stop")
    assert resumed.returncode == 0, resumed.stderr
    assert rows_of("parts") == rows_of("whole")
    assert same_weights("parts", "whole")
