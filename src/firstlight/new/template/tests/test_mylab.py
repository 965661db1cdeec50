"""The model keeps firstlight's contract, and the experiment trains."""

from pathlib import Path

import pytest
from firstlight.cli import main
from firstlight.testing import check_model

import mylab
from mylab.model import PowerGPT

SIZES = {"vocab_size": 31, "context_length": 16, "emb_dim": 24, "n_heads": 3, "n_layers": 2}
TINY = (
    "tokenizer=bytes model.context_length=16 model.emb_dim=16 model.n_heads=2 model.n_layers=1"
    " data.batch_size=2 data.eval_batches=1 trainer.max_steps=4"
    " scheduler.warmup_steps=1 trainer.log_every_n_steps=1"
    " callbacks.sample_generation.max_new_tokens=3"
)


@pytest.mark.parametrize("power", [1, 2])
def test_the_model_keeps_the_contract(power: int) -> None:
    check_model(lambda: PowerGPT(**SIZES, power=power))


def test_the_experiment_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that it also works where the package is not installed.
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "mylab")
    conf = Path(mylab.__file__).parent / "conf"
    run = tmp_path / "run"
    words = ["--config-dir", str(conf), "experiment=mylab", *TINY.split(), f"output_dir={run}"]
    assert main(["train", *words]) == 0
    assert (run / "model.safetensors").is_file()
    assert "weight_norm/tok_emb" in (run / "metrics.csv").read_text(encoding="utf-8")
