"""A device without memory left is one line, with what would need less; the checkpoints stand."""

import pytest
import torch

from firstlight.training.module import PretrainingModule


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 8"
            " bytes"
        ),
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
    assert lines[0].startswith("firstlight: out of memory on cpu")
    assert "resume with trainer.micro_batch_size=4 (the same batch" in lines[0]
    assert "step 8" in lines[1] and len(lines) == 3
