"""accumulate_grad_batches=auto: the step stays, its batches are the largest that fit; out of memory is one line."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_run import rows_of

from firstlight.cli import main
from firstlight.training import accumulation, fit
from firstlight.training.accumulation import accumulation_that_fits
from firstlight.training.module import PretrainingModule
from firstlight.training.run_folder import CONFIG


@pytest.fixture
def memory(monkeypatch):
    def set_bytes(n: int) -> None:
        monkeypatch.setattr(fit, "device_memory", lambda _: ("this computer", n))

    return set_bytes


def needed(model, data, batch_size, precision="32-true") -> int:
    """What a batch keeps, as the module counts it."""
    return accumulation._bytes_kept(model, data, batch_size, precision)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_a_batch_keeps_is_in_proportion_to_it(tiny_gpt, tiny_data, precision):
    model, data = tiny_gpt(drop_rate=0.1).train(), tiny_data(context_length=8)
    one, two, five = (needed(model, data, n, precision) for n in (1, 2, 5))
    assert five - two == 3 * (two - one) > 0


def test_in_bf16_less_is_kept(tiny_gpt, tiny_data):
    model, data = tiny_gpt().train(), tiny_data()
    assert needed(model, data, 4, "bf16-mixed") < needed(model, data, 4)


def test_a_step_is_divided_into_as_few_batches_as_fit(tiny_gpt, tiny_data):
    model, data = tiny_gpt().train(), tiny_data(batch_size=12)
    state, kept = torch.get_rng_state(), 1000

    def divided(windows: int, short: int = 0) -> int:
        available = (kept + needed(model, data, windows) - short) / accumulation.SHARE + 1
        return accumulation_that_fits(model, data, available=int(available), kept=kept, devices=1, precision="32-true")

    assert [divided(n) for n in (12, 6, 4, 3, 2, 1)] == [1, 2, 3, 4, 6, 12]
    assert divided(12, short=100) == 2 and divided(5) == 3
    with pytest.raises(ValueError, match=r"a batch of one window needs .* GB"):
        divided(1, short=1000)
    assert torch.equal(torch.get_rng_state(), state)  # the draws of dropout stay what they are


def test_a_run_keeps_what_was_found_and_trains_the_same_steps(train, memory, monkeypatch):
    memory(10**12)
    assert train("whole", "trainer.accumulate_grad_batches=auto", "model.drop_rate=0") == 0
    monkeypatch.setattr(fit, "accumulation_that_fits", lambda *_, **__: 4)
    assert train("parts", "trainer.accumulate_grad_batches=auto", "model.drop_rate=0") == 0
    stored = yaml.safe_load(Path("parts", CONFIG).read_text())
    assert (stored["data"]["batch_size"], stored["trainer"]["accumulate_grad_batches"]) == (2, 4)
    for whole, part in zip(rows_of("whole"), rows_of("parts"), strict=True):
        assert part["tokens"] == whole["tokens"]
        if whole["val/loss"]:
            assert float(part["val/loss"]) == pytest.approx(float(whole["val/loss"]), abs=0.02)
    assert main(["train", "resume=parts", "trainer.max_steps=32"]) == 0


def test_what_does_not_fit_is_refused_in_one_line(train, memory, capsys):
    memory(10)
    assert train("run", "trainer.accumulate_grad_batches=auto") == 2
    assert capsys.readouterr().err.startswith("firstlight: trainer: accumulate_grad_batches (auto): a batch of one")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        MemoryError(),
    ],
    ids=["CUDA", "CPU", "Python"],
)
def test_out_of_memory_is_one_line_and_what_to_lower(train, monkeypatch, capsys, error):
    step = PretrainingModule.training_step

    def fail(self, batch, batch_idx):
        if batch_idx == 10:
            raise error
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainingModule, "training_step", fail)
    assert train("run", "callbacks.checkpoint.every_n_steps=4") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("firstlight: no memory is left on cpu")
    assert "data.batch_size=4 trainer.accumulate_grad_batches=2" in lines[0]
    assert "step 8" in lines[1] and len(lines) == 3
