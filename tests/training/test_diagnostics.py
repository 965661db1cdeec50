"""What a run tells while it trains: the right numbers, the same if it is resumed."""

from pathlib import Path

import pytest
import torch
from stop_at import Crash
from tiny_run import rows_of

from firstlight.checkpoints.checkpoint import load_plain
from firstlight.checkpoints.find import checkpoint_name
from firstlight.checkpoints.folder_io import RECORD
from firstlight.checkpoints.manifest import TRAINING_STATE
from firstlight.cli import main
from firstlight.sources import load_checkpoint
from firstlight.training.callbacks.layers import layer_of

ALL = (
    "metrics=[default,loss_by_position,loss_by_count]",
    "callbacks=[default,layers]",
    "callbacks.checkpoint.every_n_steps=1",
)


def checkpoint_of(run: str, step: int) -> Path:
    return Path(run, "checkpoints", checkpoint_name(step))


def counts_of(run: str) -> torch.Tensor:
    return load_plain(checkpoint_of(run, 24) / TRAINING_STATE)[RECORD]["token_counts"]


def norms_by_layer(weights: dict[str, torch.Tensor]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, weight in weights.items():
        layer = layer_of(name)
        squares[layer] = squares.get(layer, 0.0) + float(weight.double().square().sum())
    return {layer: square**0.5 for layer, square in squares.items()}


def test_a_run_tells_more_and_trains_as_it_would_and_resumes_exactly(train, trained):
    trained("plain")
    assert train("told", *ALL) == 0
    plain, told = rows_of("plain"), rows_of("told")
    assert [{name: row[name] for name in plain[0]} for row in told] == plain

    stop = ["+callbacks.stop._target_=stop_at.StopAt", "+callbacks.stop.batch=13"]
    with pytest.raises(Crash):
        train("resumed", *ALL, *stop)
    assert main(["train", "resume=resumed", "~callbacks.stop"]) == 0
    assert rows_of("resumed") == told
    assert torch.equal(counts_of("resumed"), counts_of("told"))

    # Every target of every batch was counted: 24 steps of 8 windows of 16 bytes.
    assert int(counts_of("told").sum()) == 24 * 8 * 16
    last = told[-1]
    before, after = (load_checkpoint(checkpoint_of("told", n)).state_dict for n in (23, 24))
    lengths = norms_by_layer(before)
    for layer, moved in norms_by_layer({n: after[n] - before[n] for n in after}).items():
        assert float(last[f"update_ratio/{layer}"]) == pytest.approx(
            moved / lengths[layer], rel=1e-4
        )
    squares = [float(v) ** 2 for name, v in last.items() if name.startswith("grad_norm/")]
    assert len(squares) == 4 and sum(squares) ** 0.5 == pytest.approx(float(last["grad_norm"]))


def test_a_run_that_was_begun_without_counts_says_so_when_it_is_resumed(trained, capsys):
    trained("run")
    added = "+metrics.counts={_target_: firstlight.metrics.loss_by_count.LossByCount, bounds: [0]}"
    assert main(["train", "resume=run", added, "trainer.max_steps=25"]) == 0
    assert "was not counted when this run began" in capsys.readouterr().err
    assert "val/loss_at_count_0" not in rows_of("run")[-1]
