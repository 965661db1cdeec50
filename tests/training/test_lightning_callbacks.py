"""Lightning's callbacks and profilers in our runs."""

from pathlib import Path

import pytest
from tiny_run import rows_of

from firstlight.cli import main

LIGHTNING = "lightning.pytorch.callbacks"


def add(*names):
    """Overrides that add callbacks of Lightning's."""
    return [f"+callbacks.{name.lower()}._target_={LIGHTNING}.{name}" for name in names]


def test_callbacks_that_watch_log_into_the_row_of_the_step_and_change_nothing(train, trained):
    trained("plain")
    assert not Path("plain", "profile").exists()
    names = ("DeviceStatsMonitor", "LearningRateMonitor", "RichModelSummary", "LambdaCallback")
    assert train("run", *add(*names)) == 0
    rows, plain = rows_of("run"), rows_of("plain")
    assert [row["step"] for row in rows] == [row["step"] for row in plain]
    for row, twin in zip(rows, plain, strict=True):
        assert {name: row[name] for name in twin} == twin
    device = "DeviceStatsMonitor.on_train_batch_end/cpu_percent"
    assert all(row["lr-AdamW/pg1"] == row["lr"] and row[device] for row in rows[1:])


def test_what_a_callback_logs_as_lightning_documents_is_in_the_row_of_its_step(train, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "logs_and_stops")
    own = "+callbacks.own._target_=logs_and_stops.LogsAndStops"
    every = ["trainer.log_every_n_steps=2", "trainer.accumulate_grad_batches=3"]
    assert train("run", own, *every, "+callbacks.own.stop=9", "data.test_ratio=0") == 0
    rows = {row["step"]: row for row in rows_of("run")}
    # Stopped in the first batch of step 4: that step is completed, evaluated and saved.
    assert list(rows) == ["0", "2", "4"]
    assert [row["batch"] for row in rows.values()] == ["", "5.0", "11.0"]
    assert rows["4"]["val/loss"]
    assert float(rows["4"]["val_batches/dataloader_idx_1"]) == 2  # and the last, shorter window
    assert rows["4"]["ended"] == "1.0"


def test_a_timer_ends_a_run_between_two_steps_evaluated_and_saved(train, capsys):
    timer = [*add("Timer"), "+callbacks.timer.duration=00:00:00:00"]
    assert train("run", *timer, "trainer.accumulate_grad_batches=3") == 0
    out, err = capsys.readouterr()
    assert "time limit reached" in err and ": its time was over\n" in out
    rows = rows_of("run")
    assert [row["step"] for row in rows] == ["0", "1"]
    assert rows[-1]["val/loss"]
    assert rows[-1]["train/batch_loss"]


def test_a_run_that_a_timer_ended_is_resumed_only_with_more_time(train, trained, capsys):
    timer = [*add("Timer"), "+callbacks.timer.duration=00:00:00:00"]
    assert train("run", *timer) == 0
    assert main(["train", "resume=run"]) == 2
    assert "was stopped after 0:00:0" in (told := capsys.readouterr().err)
    assert "raise the duration of Timer" in told
    assert main(["train", "resume=run", "callbacks.timer.duration=00:01:00:00"]) == 0
    trained("whole")
    left = [row for row in rows_of("run") if row["step"] != "1"]  # which was evaluated as well
    assert left == [row for row in rows_of("whole") if row["step"] != "1"]


@pytest.mark.parametrize(
    "overrides",
    [
        add("ModelSummary"),
        ["callbacks=[default,model_summary]"],
        ["trainer.enable_model_summary=true"],
    ],
)
def test_a_model_summary_shows_the_layers_and_their_operations(train, capsys, overrides):
    assert train("run", "trainer.max_steps=1", *overrides) == 0
    lines = capsys.readouterr().out.splitlines()
    [head] = [line for line in lines if "model.out_head" in line]
    assert "131 K" in head  # 2 x 16 tokens x 16 x 257
    assert any("Total Flops" in line and not line.startswith("0 ") for line in lines)


def test_a_bar_of_lightnings_takes_the_place_of_ours(train, capsys):
    assert train("run", *add("RichProgressBar")) == 2
    told = capsys.readouterr().err
    assert "2 progress bars (ProgressBar, RichProgressBar), and only one can be" in told
    assert train("run", *add("RichProgressBar"), "~callbacks.progress", "trainer.max_steps=2") == 0


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("LearningRateFinder", "compare rates with -m optimizer.lr="),
        ("BatchSizeFinder", "trainer.micro_batch_size=auto"),
        ("ModelCheckpoint", "checkpoints are saved by callbacks.checkpoint"),
    ],
)
def test_a_callback_that_would_train_in_another_way_is_refused_with_what_does_the_same(
    train, capsys, name, instead
):
    assert train("run", *add(name)) == 2
    assert f"the callback {name} cannot be used: {instead}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["simple", "advanced", "pytorch"])
def test_a_profile_is_shown_and_kept_in_the_run_folder(train, capsys, tmp_path, name):
    assert train("run", f"+trainer.profiler={name}", "trainer.max_steps=6") == 0
    shown = capsys.readouterr().out
    report = tmp_path / "run" / "profile" / f"fit-{name}.txt"
    # torch's report has its slowest rows only, and which those are depends on the machine's load.
    expected = "Self CPU time total" if name == "pytorch" else "run_training_epoch"
    assert expected in report.read_text(encoding="utf-8")
    assert "FIT Profiler Report" in shown
    assert f"profile:      run/profile/fit-{name}.txt (" in shown
    assert bool(list(report.parent.glob("*training_step*.json"))) == (name == "pytorch")


def test_a_profiler_with_settings_keeps_them(train, tmp_path):
    node = (
        "+trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, filename: mine}"
    )
    assert train("run", node, "trainer.max_steps=2") == 0
    assert (tmp_path / "run" / "profile" / "fit-mine.txt").is_file()


def test_a_name_that_is_no_profilers_is_refused_with_the_choices(train, capsys):
    assert train("run", "+trainer.profiler=wrong") == 2
    assert "expected 'simple' or 'advanced' or 'pytorch'" in capsys.readouterr().err
