"""Signals, full disks, nan, failing callbacks: a run stops between two steps and saved, or goes on;
nothing is lost.
"""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from stop_at import Crash
from tiny_run import TINY, rows_of, same_weights

from firstlight.checkpoints.find import checkpoints_of
from firstlight.cli import main
from firstlight.sweep.preloaded import SERVER
from firstlight.training.callbacks.base import Watcher
from firstlight.training.process import start_process, start_server
from firstlight.training.stopping import StopSignals
from firstlight.training.watching import Failures, watch_callback
from firstlight.verify.differences import curves_of


def with_callback(kind, **arguments):
    settings = [f"+callbacks.test.{key}={value}" for key, value in arguments.items()]
    return [f"+callbacks.test._target_=stop_at.{kind}", *settings]


def steps_of(folder):
    return [int(path.name.removeprefix("step_")) for path in checkpoints_of(Path(folder))]


def assert_same_run(one, other):
    assert rows_of(one) == rows_of(other)
    assert same_weights(one, other) and same_weights(one, other, best=True)
    assert Path(one, "samples.txt").read_text() == Path(other, "samples.txt").read_text()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGINT", 130),
        ("SIGTERM", 143),
        pytest.param("SIGUSR1", 138, marks=pytest.mark.long),
        pytest.param("SIGHUP", 129, marks=pytest.mark.long),
    ],
)
def test_a_signal_stops_the_run_after_the_step_and_saved(train, trained, capsys, name, code):
    trained("whole")
    with pytest.raises(SystemExit) as left:
        train("parts", *with_callback("SignalAt", batch=13, names=f"[{name}]"))
    assert left.value.code == code
    said = capsys.readouterr()
    assert "stopped after step 14" in said.out and "train resume=parts" in said.out
    assert steps_of("parts")[-1] == 14
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


@pytest.mark.parametrize(
    ("batch", "hook", "saved"),
    [
        pytest.param(
            7, "on_train_batch_start", 8, id="in the step of an evaluation", marks=pytest.mark.long
        ),
        pytest.param(8, "on_validation_start", 8, id="in an evaluation"),
        pytest.param(0, "on_train_start", 1, id="before the first step"),
        pytest.param(23, "on_train_batch_start", 24, id="in the last step", marks=pytest.mark.long),
    ],
)
def test_a_signal_at_any_place_loses_nothing(train, trained, batch, hook, saved):
    trained("whole")
    with pytest.raises(SystemExit) as left:
        train("parts", *with_callback("SignalAt", batch=batch, names="[SIGTERM]", hook=hook))
    assert left.value.code == 143
    assert steps_of("parts")[-1] == saved
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


@pytest.mark.long
def test_a_signal_in_the_middle_of_an_accumulation_waits_for_the_step(train, trained):
    accumulating = "trainer.accumulate_grad_batches=3"
    trained("whole", accumulating)
    with pytest.raises(SystemExit):
        train("parts", accumulating, *with_callback("SignalAt", batch=31, names="[SIGTERM]"))
    assert steps_of("parts")[-1] == 11
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


def test_a_second_ctrl_c_leaves_at_once(train, trained):
    trained("whole")
    with pytest.raises(SystemExit) as left:
        train("parts", *with_callback("SignalAt", batch=13, names="[SIGINT,SIGINT]"))
    assert left.value.code == 130
    assert steps_of("parts")[-1] == 8
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


def test_what_was_ignored_before_is_still_ignored():
    """nohup ignores SIGHUP, a shell SIGINT of a job in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_as_before_after_a_run(train):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert train("run", "trainer.max_steps=2") == 0
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.fixture
def process():
    """`firstlight train` of the tiny run, without an end, as a process whose words are in `log`;
    killed afterwards.
    """
    begun = []
    start_server(SERVER)

    def start(*arguments, **environment):
        words = ["train", *arguments]
        begun.append(
            start_process(main, words, log=Path("log"), environment={**os.environ, **environment})
        )
        return begun[-1]

    yield start
    for running in begun:
        running.kill()
        running.join()


ENDLESS = ("trainer.max_steps=100000", "trainer.eval_every_n_steps=100000", "output_dir=run")


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_requeued_slurm_job_is_put_back_into_the_queue(process, tmp_path):
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > '{tmp_path / 'asked'}'\n")
    scontrol.chmod(0o755)
    slurm = {
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_NTASKS": "1",
        "SLURM_JOB_NAME": "lamps", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    running = process(*TINY, *ENDLESS, **slurm)
    wait_for(lambda: len(rows_of("run")) > 3)
    os.kill(running.pid, signal.SIGUSR1)
    running.join(timeout=60)
    said = Path("log").read_text()
    assert running.exitcode == 138, said
    assert "SIGUSR1: stopping after this step" in said and "train resume=run" in said
    assert Path("asked").read_text() == "requeue 42\n"
    assert steps_of("run")[-1] == int(rows_of("run")[-1]["step"])


def test_of_two_writers_of_a_run_one_is_refused_until_the_other_dies(process, train, capsys):
    running = process(*TINY, *ENDLESS, "callbacks.checkpoint.every_n_steps=2", "data.num_workers=1")
    wait_for(lambda: len(steps_of("run")) > 1)
    assert main(["train", "resume=run"]) == 2
    assert f"process {running.pid} on" in capsys.readouterr().err
    running.kill()  # its worker, which was forked with the lock, lives a while longer
    running.join()
    more = f"trainer.max_steps={steps_of('run')[-1] + 1}"
    assert main(["train", "resume=run", more, "trainer.eval_every_n_steps=100000"]) == 0


def test_a_full_disk_stops_the_run_with_one_line_and_the_old_checkpoint(train, trained, capsys):
    trained("whole")
    assert train("parts", *with_callback("FullDiskAt", step=15)) == 1
    said = capsys.readouterr().err
    assert (
        "firstlight: the checkpoint of step 16 cannot be written: No space left on device" in said
    )
    assert "the newest checkpoint is that of step 8" in said and "resume=parts" in said
    assert "Traceback" not in said
    assert steps_of("parts") == [8] and not list(Path("parts/checkpoints").glob(".*"))
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


def test_a_folder_without_room_is_refused_before_the_run(train, capsys, monkeypatch):
    import shutil

    def room(free: int) -> None:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free)
        )

    room(100)
    assert train("run") == 2
    said = capsys.readouterr().err
    assert "checkpoints need" in said and "keep_last" not in said  # that would not do
    room(290_000)
    assert train("run") == 2
    assert "or callbacks.checkpoint.keep_last=1" in capsys.readouterr().err
    assert not Path("run").exists()
    assert train("run", "callbacks.checkpoint.keep_last=1") == 0

    with_keeper = [*with_callback("KeepsFiles", copies=3), "~callbacks.checkpoint"]
    room(2 * 10**9)
    assert train("other", *with_keeper) == 2
    said = capsys.readouterr().err
    assert "or callbacks.test.copies=1" in said and "keep_last" not in said


@pytest.mark.parametrize("what", [pytest.param("loss", marks=pytest.mark.long), "gradient"])
def test_nan_stops_the_run_before_the_update(train, trained, capsys, what):
    trained("whole")
    assert train("parts", *with_callback("NanAt", steps="[13]", what=what)) == 1
    said = capsys.readouterr().err
    assert f"the {what} of step 13 is not finite" in said and "Traceback" not in said
    assert (
        "the largest gradient is that of trf_blocks.0.norm1.weight (norm inf)" in said
        or what == "loss"
    )
    window = re.search(
        r"no window's loss is out of range without dropout; the largest is \S+: '(.*)'", said
    )
    assert window and window[1] in Path("text.txt").read_text()
    assert steps_of("parts") == [8]
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


def test_nan_can_be_skipped_and_is_counted(train):
    assert train("run", "on_nan=skip", *with_callback("NanAt", steps="[3,13]")) == 0
    assert [float(row["skipped_steps"]) for row in rows_of("run")[1:]] == [0] * 2 + [1] * 10 + [
        2
    ] * 12


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.long), "muon"])
def test_a_skipped_step_changes_no_weight(train, optimizer):
    skip = ["on_nan=skip", f"optimizer={optimizer}"]
    assert train("one", *skip, "trainer.max_steps=8") == 0
    assert train("other", *skip, "trainer.max_steps=9", *with_callback("NanAt", steps="[9]")) == 0
    assert same_weights("one", "other")


@pytest.mark.long
def test_nan_in_every_step_is_not_skipped_for_ever(train, capsys):
    assert (
        train(
            "run",
            "on_nan=skip",
            *with_callback("NanAt", steps=str(list(range(9, 25))).replace(" ", "")),
        )
        == 1
    )
    assert "the loss of step 19 is not finite" in capsys.readouterr().err
    assert steps_of("run")[-1] <= 16


def test_weights_that_are_not_finite_are_never_saved(train, capsys):
    unclipped = ["optimizer.lr=1e38", "trainer.gradient_clip_val=null"]
    assert train("run", *unclipped, "callbacks.checkpoint.every_n_steps=1") == 1
    assert "not finite" in capsys.readouterr().err
    assert steps_of("run") == []


def test_a_failing_callback_ends_the_run_only_when_the_step_is_saved(train, trained, capsys):
    trained("whole")
    with pytest.raises(LookupError, match="of the user's"):
        train("parts", *with_callback("FailAt", step=13))
    assert "the newest checkpoint is that of step 13" in capsys.readouterr().err
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert_same_run("whole", "parts")


@pytest.mark.parametrize("name", ["FailWhenComplete", "WatchingFailWhenComplete"])
def test_what_fails_when_a_step_is_complete_is_no_other_than_what_fails_before(train, name, capsys):
    """Of a callback of Lightning's kind, too; here and there the step is saved."""
    failing = [*with_callback(name, step=13), "trainer.max_steps=16"]
    if name.startswith("Watching"):
        assert train("run", *failing) == 0
        assert f"note: {name} failed, training continues" in capsys.readouterr().err
    else:
        with pytest.raises(LookupError, match=r"has failed after \[1, 2, .*, 12, 13\]"):
            train("run", *failing)
        assert steps_of("run")[-1] == 13


def test_the_error_of_a_callback_that_saves_the_step_ends_the_run_at_once(train):
    with pytest.raises(LookupError, match="could not save"):
        train("run", *with_callback("FailsToSave"))
    assert steps_of("run") == []


def test_a_failing_watcher_costs_the_run_nothing(train, trained, capsys):
    trained("whole")
    assert train("parts", *with_callback("WatchingFailAt", step=13)) == 0
    said = capsys.readouterr().err
    assert (
        "note: WatchingFailAt failed, training continues (LookupError: a callback of the user's has"
        " failed" in said
    )
    assert "WatchingFailAt failed once" in said
    assert "in on_train_batch_end" in Path("parts/errors.log").read_text()
    assert_same_run("whole", "parts")


@pytest.mark.long
def test_a_failing_sample_changes_no_number(train, trained, monkeypatch, capsys):
    from firstlight.decoding.sample import Sample

    trained("whole")
    monkeypatch.setattr(Sample, "generate", lambda *_, **__: 1 / 0)
    assert train("parts") == 0
    assert "SampleGeneration failed" in capsys.readouterr().err
    rows = rows_of("whole")
    for row in rows:  # what a sample copies is not known without one
        for name in [column for column in row if column.startswith("copied/")]:
            del row[name]
    assert rows == rows_of("parts") and same_weights("whole", "parts")


def test_rows_that_a_full_disk_refused_are_written_later(train, trained, monkeypatch, capsys):
    from firstlight.training.loggers.csv import CSVLogger

    trained("whole")
    real, calls = CSVLogger._append, []

    def full_at_first(self, row):
        calls.append(row)
        if 3 < len(calls) < 6:
            with self.file.open("a") as file:
                file.write("13,17")  # half a row
            raise OSError(28, "No space left on device")
        real(self, row)

    monkeypatch.setattr(CSVLogger, "_append", full_at_first)
    assert train("parts") == 0
    assert "CSVLogger failed, training continues" in capsys.readouterr().err
    assert rows_of("whole") == rows_of("parts")


@pytest.mark.long
def test_tensorboard_comes_back_when_its_files_have_vanished(train, monkeypatch, capsys):
    from firstlight.training.callbacks.throughput import Throughput

    def vanish(self, trainer, *rest):
        if trainer.global_step == 9:
            for file in Path("run").glob("events*"):
                file.unlink()

    monkeypatch.setattr(Throughput, "on_train_batch_start", vanish)
    assert train("run") == 0
    assert "Traceback" not in capsys.readouterr().err
    assert len(rows_of("run")) == 25
    assert [step for step, _ in curves_of(Path("run"))["train/batch_loss"]][-15:] == list(
        range(10, 25)
    )


def test_a_run_killed_after_its_last_checkpoint_is_finished_by_resume(
    train, trained, monkeypatch, capsys
):
    from firstlight.training import fit

    trained("whole", "callbacks=[default]")
    with monkeypatch.context() as patch:
        patch.setattr(fit, "keep_best", lambda *_, **__: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            train("parts")
    assert not Path("parts/model.safetensors").exists()
    assert main(["train", "resume=parts"]) == 0
    assert Path("parts/model.safetensors").read_bytes() != b""
    assert_same_run("whole", "parts")
    assert main(["train", "resume=parts"]) == 2
    assert "is finished (24 of 24 steps)" in capsys.readouterr().err


@pytest.mark.long
def test_rows_that_were_refused_are_on_disk_before_the_checkpoint_that_counts_them(
    train, trained, monkeypatch
):
    from firstlight.training.loggers.csv import CSVLogger

    trained("whole")
    real = CSVLogger._append

    def full(self, row):
        if row["step"] in ("15", "13"):
            raise OSError(28, "No space left on device")
        real(self, row)

    monkeypatch.setattr(CSVLogger, "_append", full)
    with pytest.raises(Crash):
        train("parts", "callbacks.checkpoint.every_n_steps=5", *with_callback("StopAt", batch=15))
    assert main(["train", "resume=parts", "~callbacks.test"]) == 0
    assert rows_of("parts") == rows_of("whole")


def test_the_first_signal_decides():
    with StopSignals() as stop:
        for name in ("SIGUSR1", "SIGTERM"):
            os.kill(os.getpid(), getattr(signal, name))
        assert stop.received == signal.SIGUSR1


def test_a_watcher_that_fails_before_the_first_step_does_not_end_the_run(tmp_path):
    class FailsInSetup(Watcher):
        def setup(self, trainer, pl_module, stage):
            raise LookupError("no such thing")

    callback, failures = FailsInSetup(), Failures(tmp_path)
    watch_callback(callback, failures, pytest.fail)
    callback.setup(None, None, "fit")
    assert failures.counts == {"FailsInSetup": 1}
