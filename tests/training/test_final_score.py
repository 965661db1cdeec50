"""The test split is scored once, when a run ends, with its best weights."""

import json
import math
import shutil
from pathlib import Path

import pytest
from tiny_run import rows_of

from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.cli import main

pytestmark = pytest.mark.cpu


def final(folder: str) -> list[dict[str, str]]:
    """What each row has of the test split."""
    return [
        {n: v for n, v in row.items() if n.startswith("test/") and v} for row in rows_of(folder)
    ]


def evaluated(folder: str, capsys) -> dict[str, float]:
    capsys.readouterr()
    assert main(["evaluate", "format=json", f"checkpoint={folder}", "split=test"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_is_scored_with_the_best_weights_and_its_error_is_said(train, capsys):
    # Of letters that training has not seen a model thinks less and less.
    Path("text.txt").write_text("the lamp was lit. " * 50 + "QZXJ VKWY " * 10)
    assert train("run", "optimizer.lr=0.01", "+callbacks.k._target_=stop_at.KeepsLastWeights") == 0
    said = capsys.readouterr().out
    saved = checkpoints_of(Path("run"))
    best = best_of(saved)
    assert best != saved[-1]  # or this would not tell which ones were scored
    *others, last = final("run")
    assert not any(others)
    found = evaluated("run", capsys)
    assert float(last["test/loss"]) == pytest.approx(found["test/loss"], rel=1e-6)
    error = float(last["test/loss_error"])
    assert error > 0 and math.isfinite(error)
    step = int(best.name.removeprefix("step_"))
    assert (
        f"test loss {found['test/loss']:.3f} +- {error:.3f} (95%, by how the text varies), with the"
        f" best weights (step {step})\n" in said
    )
    # Killed at its end: callbacks still see the last weights there, not those that were scored.
    last_weights = Path("run/last.txt").read_text()
    Path("run/last.txt").unlink()
    Path("run/model.safetensors").unlink()
    assert main(["train", "resume=run"]) == 0
    assert Path("run/last.txt").read_text() == last_weights


def test_a_run_that_is_lengthened_is_scored_at_its_new_end_alone(trained, train, capsys):
    trained("run", "trainer.max_steps=16")
    assert final("run")[-1]
    assert main(["train", "resume=run", "trainer.max_steps=24"]) == 0
    *others, last = final("run")
    assert not any(others) and last
    trained("whole")
    assert rows_of("run") == rows_of("whole")


def test_a_run_that_was_killed_while_it_was_scored_is_scored_when_it_is_resumed(trained):
    trained("whole")
    shutil.copytree("whole", "killed")
    Path("killed/model.safetensors").unlink()
    assert main(["train", "resume=killed"]) == 0
    assert rows_of("killed") == rows_of("whole")
    assert Path("killed/model.safetensors").read_bytes() == (
        Path("whole/model.safetensors").read_bytes()
    )


def test_a_run_whose_test_loss_is_not_finite_can_be_ended_without_it(trained, capsys, monkeypatch):
    trained("run")
    whole = Path("run/model.safetensors").read_bytes()
    Path("run/model.safetensors").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("firstlight.training.final_score.values_of", lambda *_: {"loss": math.nan})
        assert main(["train", "resume=run"]) == 1
    said = capsys.readouterr().err
    assert "test/loss is nan with the weights of step 24; resume with data.test_batches=0" in said
    assert main(["train", "resume=run", "data.test_batches=0"]) == 0
    assert "test loss" not in capsys.readouterr().out
    assert Path("run/model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("setting", "scored"),
    [("data.test_ratio=0", None), ("data.test_batches=0", None), ("data.test_batches=1", 32)],
)
def test_it_may_be_left_out_or_limited(train, capsys, setting, scored):
    assert train("run", setting, "trainer.max_steps=1", "data.batch_size=2") == 0
    assert bool(final("run")[-1]) == (scored is not None)
    assert ("test loss" in capsys.readouterr().out) == (scored is not None)


def test_without_checkpoints_the_last_weights_are_scored(train, capsys):
    assert train("run", "~callbacks.checkpoint", "trainer.max_steps=4") == 0
    assert "with the last weights (step 4)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "key", ["callbacks.checkpoint.monitor", "+callbacks.early_stopping.monitor"]
)
def test_nothing_may_be_chosen_by_it(train, capsys, key):
    callback = ["callbacks=[default,early_stopping]"] if "early" in key else []
    assert train("run", *callback, f"{key.lstrip('+')}=test/loss") == 2
    said = capsys.readouterr().err
    assert "may choose nothing; take val/loss" in said and said.count("\n") == 1
    assert not Path("run").exists()


def test_a_sweep_may_not_choose_by_it_either(capsys):
    words = ["optimizer.lr=1e-3,2e-3", "sweep.objectives=[test/loss]", "data.path=text.txt"]
    assert main(["train", "-m", "data=text", "output_dir=sweep", *words]) == 2
    assert "sweep.objectives (test/loss): the test split is scored once" in capsys.readouterr().err
    assert not Path("sweep").exists()
