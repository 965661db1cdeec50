"""16-mixed: gradients are clipped and told as they are, not as they are scaled. Here a CPU takes a
GPU's part.
"""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.connectors import accelerator_connector
from test_stopping import with_callback
from tiny_run import rows_of, weights_of

pytestmark = pytest.mark.cpu

FLOAT16 = (  # Lightning has no 16-mixed on a CPU: the fixture puts it in the place
    "trainer.precision=bf16-mixed"
)


@pytest.fixture
def scaled(monkeypatch):
    def make(precision: str, device: str) -> MixedPrecision:
        return MixedPrecision("16-mixed", device, torch.amp.GradScaler(device))

    monkeypatch.setattr(accelerator_connector, "MixedPrecision", make)


@pytest.mark.parametrize("fused", ["true", pytest.param("false", marks=pytest.mark.long)])
def test_gradients_are_clipped_as_in_float32(train, scaled, fused):
    settings = (f"optimizer.fused={fused}", "trainer.gradient_clip_val=0.1", "model.drop_rate=0")
    assert train("float32", *settings) == 0
    assert train("float16", FLOAT16, *settings) == 0
    for plain, mixed in zip(rows_of("float32"), rows_of("float16"), strict=True):
        if plain["grad_norm"]:
            assert float(mixed["grad_norm"]) == pytest.approx(float(plain["grad_norm"]), rel=0.05)
    for name, weight in weights_of("float32").items():
        torch.testing.assert_close(weights_of("float16")[name], weight, rtol=0.02, atol=0.02)


def test_a_gradient_that_overflows_now_and_then_is_left_out_by_the_scaler(train, scaled):
    overflow = with_callback("NanAt", steps="[3]", what="gradient")
    assert train("run", FLOAT16, *overflow) == 0
    assert len(rows_of("run")) == 25


@pytest.mark.long
def test_a_loss_that_is_nan_ends_the_run_or_is_skipped_and_counted(train, scaled, capsys):
    nan = with_callback("NanAt", steps="[12]")
    assert train("stops", FLOAT16, *nan) == 1
    assert "the loss of step 12 is not finite" in capsys.readouterr().err
    assert train("skips", FLOAT16, "on_nan=skip", *nan) == 0
    assert rows_of("skips")[-1]["skipped_steps"] == "1"
