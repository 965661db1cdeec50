"""`loss=...` in a run: what training lowers, and that evaluations measure the cross-entropy all the
same.
"""

from pathlib import Path

import pytest

from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder

RUN = (
    "train", "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "model.drop_rate=0", "scheduler=constant", "trainer.max_steps=2",
    "trainer.eval_every_n_steps=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "callbacks=[checkpoint]", "logger=csv", "trainer.gradient_clip_val=null",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_with_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(
        "The lamp was lit, and the lamp went out; nobody had seen who did it. " * 12
    )


def train(folder: str, *overrides: str) -> list[dict[str, str]]:
    """The rows of metrics.csv of a run of two steps."""
    assert main([*RUN, f"output_dir={folder}", *overrides]) == 0
    return RunFolder(Path(folder)).rows


def test_z_loss_is_added_to_what_training_lowers_and_to_nothing_else():
    plain, with_z = train("plain"), train("z", "loss.z_loss=0.1")
    assert (
        with_z[0]["val/loss"] == plain[0]["val/loss"]
    )  # of the untrained model, which is the same
    # All logits of an untrained model are near 0, so that log Z is near log 257.
    added = float(with_z[1]["train/batch_loss"]) - float(plain[1]["train/batch_loss"])
    assert added == pytest.approx(0.1 * 5.55**2, rel=0.05)


def test_parts_of_a_batch_have_the_loss_of_the_whole():
    settings = ("loss.z_loss=0.1", "loss.label_smoothing=0.1")
    whole, parts = (
        train("whole", *settings),
        train("parts", *settings, "trainer.micro_batch_size=3"),
    )
    for row, other in zip(whole, parts, strict=True):
        for name in ("train/batch_loss", "grad_norm", "val/loss"):
            if row[name]:
                assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-5)


@pytest.mark.parametrize("batches", [1, 2], ids=["one batch a step", "two"])
def test_a_loss_learns_the_step_and_a_resumed_run_continues_its_schedule(batches, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "scheduled")
    accumulated = f"trainer.accumulate_grad_batches={batches}"
    plain = train("plain", accumulated, "trainer.max_steps=4")
    train("ramp", accumulated, "loss._target_=scheduled.Ramp")  # ends after step 2 of 2
    assert main(["train", "resume=ramp", "trainer.max_steps=4"]) == 0
    added = [
        float(row["train/batch_loss"]) - float(other["train/batch_loss"])
        for row, other in zip(RunFolder(Path("ramp")).rows[1:], plain[1:], strict=True)
    ]
    assert added == pytest.approx([0 / 2, 1 / 2, 2 / 4, 3 / 4], abs=1e-5)


@pytest.mark.parametrize(
    "override", ["loss.z_loss=-1", "loss.label_smoothing=1", "loss.z_los=0.1", "loss=focl"]
)
def test_what_a_loss_cannot_be_is_refused_by_name(override, capsys):
    assert main([*RUN, "output_dir=run", override]) == 2
    assert override.split("=")[0] in capsys.readouterr().err
    assert not Path("run").exists()
