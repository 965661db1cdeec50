"""The average of the weights: the right one, measured, kept, and exact on resume."""

from pathlib import Path

import pytest
import torch
from stop_at import Crash
from tiny_run import rows_of, same_weights

from firstlight.cli import main
from firstlight.sources import load_checkpoint

MODEL = ("model.drop_rate=0.1", "freeze=pos_emb.weight")
"""With dropout, a frozen parameter and a tied matrix."""
EMA = ("callbacks=[default,ema]", "callbacks.ema.decay=0.5", *MODEL)
EACH = ("callbacks.checkpoint.every_n_steps=1", "callbacks.checkpoint.keep_last=24")


def weights_at(run: str, step: int) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path(run, "checkpoints", f"step_{step:08}")).state_dict


def average_of(run: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path(run, "ema.safetensors")).state_dict


def test_the_average_is_that_of_the_checkpoints_and_training_is_what_it_was(train, capsys):
    assert train("with", *EMA, *EACH) == 0
    assert "the average of the weights has a validation loss of" in capsys.readouterr().err
    assert train("without", *MODEL) == 0
    assert same_weights("with", "without")
    rows = rows_of("with")
    assert [{k: v for k, v in row.items() if k != "val/ema_loss"} for row in rows] == rows_of(
        "without"
    )
    assert [row["step"] for row in rows if row["val/ema_loss"]] == ["8", "16", "24"]

    # The weights that were drawn are not saved; less than 1e-8 of them is in the last average.
    expected = weights_at("with", 1)
    for step in range(2, 25):
        decay, now = min(0.5, (1 + step) / (10 + step)), weights_at("with", step)
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in expected}
    tracked = average_of("with")
    for name, weight in tracked.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
    assert torch.equal(tracked["pos_emb.weight"], weights_at("with", 24)["pos_emb.weight"])


def test_a_run_that_is_resumed_has_the_same_average(train):
    words = (*EMA, "trainer.precision=bf16-mixed")
    assert train("whole", *words) == 0
    stop = ["+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=13"]
    with pytest.raises(Crash):
        train("resumed", *words, *stop)
    assert main(["train", "resume=resumed", "~callbacks.stop"]) == 0
    assert rows_of("resumed") == rows_of("whole")
    twins = average_of("whole")
    assert all(torch.equal(weight, twins[name]) for name, weight in average_of("resumed").items())
