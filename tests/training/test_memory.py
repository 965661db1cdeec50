"""What a run needs, before it begins."""

from functools import partial

import pytest
import torch
from torch import optim

from firstlight.model.gpt import GPT
from firstlight.optim.adamw import adamw
from firstlight.optim.muon import hidden_matrices, muon
from firstlight.training import memory
from firstlight.training.memory import check_memory, moments

SIZES = {"vocab_size": 257, "context_length": 8, "emb_dim": 64, "n_heads": 2, "n_layers": 4}


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_moments_are_the_numbers_that_an_optimizer_keeps(tiny_gpt, decay):
    for make in (partial(adamw, decay=decay), partial(muon, decay=decay), lambda m, lr: optim.SGD(m.parameters(), lr)):
        model = tiny_gpt(tie_weights=True)
        optimizer = make(model, lr=1e-3)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        kept = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
        assert moments(optimizer) == sum(tensor.numel() for tensor in kept if tensor is not None)


@pytest.mark.parametrize(
    ("precision", "size", "size_of_logits"),
    [("32-true", 4, 4), ("bf16-mixed", 4, 2), ("bf16-true", 2, 2), ("64-true", 8, 8)],
)
def test_a_run_must_have_room_for_weights_gradients_moments_and_logits(
    tiny_data, monkeypatch, precision, size, size_of_logits
):
    data = tiny_data()
    data.setup()
    model = GPT(**SIZES)
    logits = size_of_logits * 2 * 8 * 257
    for optimizer in (partial(adamw, lr=1e-3), partial(muon, lr=1e-3)):
        kept = 2 * model.n_parameters
        if optimizer.func is muon:
            kept -= sum(p.numel() for p in hidden_matrices(model))
        needed = size * (2 * model.n_parameters + kept) + logits
        check = partial(check_memory, partial(GPT, **SIZES), data, optimizer, {"precision": precision})
        monkeypatch.setattr(memory, "device_memory", lambda _, needed=needed: ("this computer", needed))
        assert check() == kept
        monkeypatch.setattr(memory, "device_memory", lambda _, needed=needed: ("this computer", needed - 1))
        with pytest.raises(ValueError, match=r"parameters need at least .* lower model\.n_layers, model\.emb_dim"):
            check()
