"""Steps whose loss or gradient norm lies far above those before: found, recorded, skipped on request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stop_at import Crash
from test_stopping import with_callback
from tiny_run import TINY, rows_of, same_weights

from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder
from firstlight.training.nonfinite import late_check
from firstlight.training.nonfinite.guard import Guard
from firstlight.training.nonfinite.late_check import StepRecord
from firstlight.training.spikes import recent, record
from firstlight.training.spikes.recent import Judged, RecentSteps, judged
from firstlight.training.spikes.record import Spike

HIGH = with_callback("SpikeAt", losses="[18]", gradients="[13]")


def spikes_of(folder: str) -> list[dict]:
    return RunFolder(Path(folder)).spikes


def flagged(numbers: np.ndarray) -> list[int]:
    """The steps (from 1) that are spikes of these numbers (N, 2)."""
    steps, found = RecentSteps(), []
    for step, row in enumerate(torch.tensor(numbers, dtype=torch.float64), start=1):
        if any(number.is_above for number in judged(steps.judge(step, row)).values()):
            found.append(step)
    return found


@pytest.fixture
def soon(monkeypatch):
    """Let a step be judged when there have been four before it."""
    monkeypatch.setattr(recent, "LEAST", 4)


def test_a_spike_is_what_numpy_says_of_the_last_128_finite_numbers():
    draws = np.random.default_rng(0)
    numbers = draws.standard_t(2, size=(600, 2))  # with heavy tails, so that some are far away
    numbers[draws.random((600, 2)) < 0.05] = np.nan
    numbers[draws.random((600, 2)) < 0.01] = np.inf
    expected = []
    for n in range(600):
        for column in range(2):
            before = numbers[max(n - 128, 0) : n, column]
            before = before[np.isfinite(before)]
            now = numbers[n, column]
            is_judged = len(before) >= 64 and np.isfinite(now)
            if is_judged and now > before.mean() + 6 * before.std(ddof=1):
                expected.append(n + 1)
    assert flagged(numbers) == sorted(set(expected)) and len(expected) >= 3


def test_a_lasting_rise_is_new_only_at_first_and_rounding_never_is():
    level = np.random.default_rng(1).normal(3.0, 0.01, size=(300, 2))
    level[200:] += 5
    assert flagged(level) == [201, 202, 203, 204]
    same = np.full((300, 2), 3.0)
    same[100] += 1e-9
    assert flagged(same) == []


def test_spikes_are_recorded_with_their_windows_and_the_run_is_what_it_was(
    train, soon, monkeypatch, capsys
):
    assert train("told", *HIGH) == 0
    note = capsys.readouterr().err
    assert "2 steps with a loss or gradient norm more than 6 standard deviations" in note
    assert "(13, 18); their windows are in told/spikes.jsonl" in note
    gradient, loss = spikes_of("told")
    assert (gradient["step"], gradient["batches"], gradient["above"]) == (
        13,
        [12, 12],
        ["grad_norm"],
    )
    assert (loss["step"], "loss" in loss["above"], loss["was_skipped"]) == (18, True, False)
    assert loss["loss"]["value"] > loss["loss"]["mean"] + 6 * loss["loss"]["sigma"]
    row = rows_of("told")[18]
    assert row["step"] == "18" and float(row["train/batch_loss"]) == loss["loss"]["value"]
    text = Path("text.txt").read_text()
    assert loss["n_windows"] == 8 and all(len(w["text"]) == 17 for w in loss["windows"])
    assert all(window["text"] in text for window in loss["windows"])
    losses = [window["loss"] for window in loss["windows"]]
    assert losses == sorted(losses, reverse=True)

    stop = ["+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=15"]
    with pytest.raises(Crash):
        train("resumed", *HIGH, *stop)
    assert [spike["step"] for spike in spikes_of("resumed")] == [13]
    assert main(["train", "resume=resumed", "~callbacks.stop"]) == 0
    assert spikes_of("resumed") == [gradient, loss]  # that of step 13 was made twice

    monkeypatch.setattr(recent, "LEAST", 100)
    assert train("untold", *HIGH) == 0
    assert not Path("untold/spikes.jsonl").exists()
    assert rows_of("untold") == rows_of("told") == rows_of("resumed")
    assert same_weights("untold", "told") and same_weights("untold", "resumed")


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_spike_that_is_skipped_changes_no_weight(train, soon, monkeypatch, late):
    if late:  # a CPU takes a GPU's part
        monkeypatch.setattr(late_check, "DEVICES", ("cpu",))
    high = with_callback("SpikeAt", losses="[9]")
    assert train("one", "on_spike=skip", "trainer.max_steps=8") == 0
    assert train("other", "on_spike=skip", "trainer.max_steps=9", *high) == 0
    assert same_weights("one", "other")
    assert [float(row["skipped_steps"]) for row in rows_of("other")[1:]] == [0] * 8 + [1]
    [spike] = spikes_of("other")
    assert spike["was_skipped"] and spike["step"] == 9


@pytest.mark.long
@pytest.mark.parametrize("on_spike", ["record", "skip"])
def test_a_device_that_is_read_late_finds_the_same(train, soon, monkeypatch, on_spike):
    settings = (f"on_spike={on_spike}", "trainer.log_every_n_steps=5", *HIGH)
    assert train("read", *settings) == 0
    monkeypatch.setattr(late_check, "DEVICES", ("cpu",))
    assert train("late", *settings) == 0
    assert rows_of("late") == rows_of("read") and same_weights("late", "read")
    for spike, twin in zip(spikes_of("read"), spikes_of("late"), strict=True):
        # The host looks at the windows a step later, with other weights and so in another order.
        for found in (spike, twin):
            found["windows"] = sorted(window["text"] for window in found["windows"])
        assert spike == twin


def test_windows_are_cut_and_a_large_file_gets_no_more_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MOST_TEXT", 3)
    monkeypatch.setattr(record, "MOST_BYTES", 100)
    for step in (1, 2):
        spike = Spike(step, (0, 0), {"loss": Judged(True, 9.0, 1.0, 0.5)}, False)
        record.write_spike(tmp_path, spike, [(1.0, "abcdef"), (2.0, "ghi")])
    first, second = spikes_of(str(tmp_path))
    assert [window["text"] for window in first["windows"]] == ["ghi", "abc"]
    assert (second["step"], second["n_windows"], second["windows"]) == (2, 2, [])


@pytest.mark.parametrize("late", [False, True])
def test_processes_decide_by_the_norm_of_all_and_not_by_their_own(soon, monkeypatch, late):
    """On other hardware a norm has other last digits: one process would wait for the others."""
    if late:
        monkeypatch.setattr(late_check, "DEVICES", ("cpu",))
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], fused=True)
    of_all, found = torch.tensor([0.0, 2.0, 1.0]), []
    guard = Guard(
        "stop",
        "record",
        describe=lambda record, skipped: "",
        record_spike=lambda record, numbers: found.append(
            (record.step, numbers["grad_norm"].value)
        ),
        mean_of_all=lambda numbers: of_all.to(numbers.dtype),
    )
    for step, (own, of_all[2]) in enumerate([(1, 1)] * 8 + [(9, 1), (1, 9)], start=1):
        loss, norm = torch.tensor(2.0), torch.tensor(float(own))
        now = StepRecord(step, [], loss[None], loss, norm, [weight], norm[None])
        guard.judge(now, optimizer, None, torch.device("cpu"))
    guard.settle()
    assert found == [(10, 9.0)]


@pytest.mark.long
def test_two_processes_find_the_spikes_of_one(train):
    length = [
        *("trainer.max_steps=80", "trainer.eval_every_n_steps=40", "model.drop_rate=0"),
        *("metrics=[default,loss_by_count]", "callbacks=[default,ema,layers]"),
    ]
    high = with_callback("SpikeAt", losses="[70]", gradients="[75]")
    assert train("one", "on_spike=skip", *length, *high) == 0
    words = [*TINY, *length, *high, "on_spike=skip", "output_dir=two", "trainer.devices=2"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-m", "firstlight", "train", *words, "trainer.strategy=ddp"]
    subprocess.run(command, check=True, timeout=900, env=environment)
    told = ("val/ema_loss", "val/loss_at_count_100_to_999", "update_ratio/tok_emb")
    for row, twin in zip(rows_of("one"), rows_of("two"), strict=True):
        for name in told:
            assert bool(row[name]) == bool(twin[name])
            if row[name]:
                assert float(twin[name]) == pytest.approx(float(row[name]), rel=1e-3)
    one, two = spikes_of("one"), spikes_of("two")
    assert [spike["step"] for spike in two] == [spike["step"] for spike in one] == [70, 75]
    for spike, twin in zip(one, two, strict=True):
        assert twin["n_windows"] == 8 and twin["above"] == spike["above"]
        assert {w["text"] for w in twin["windows"]} == {w["text"] for w in spike["windows"]}


def test_a_damaged_file_of_spikes_costs_no_run(trained):
    trained("run")
    lines = ['{"step": 3}', "[" * 10000, '{"step": "4"}', "no JSON", '{"step": 99}', '{"step": 5']
    Path("run/spikes.jsonl").write_text("\n".join(lines))
    assert main(["train", "resume=run", "trainer.max_steps=25"]) == 0
    assert json.loads(Path("run/spikes.jsonl").read_text()) == {"step": 3}


def test_a_wrong_word_is_refused_in_a_line(train, capsys):
    assert train("run", "on_spike=stop") == 2
    error = capsys.readouterr().err
    assert error.startswith("firstlight: on_spike") and error.count("\n") == 1
    assert "record" in error and "skip" in error
