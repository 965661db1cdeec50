"""What a run needs, before it begins."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import optim

from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.model.construction import without_weights
from firstlight.model.gpt import GPT
from firstlight.optim.adamw import adamw
from firstlight.optim.muon import hidden_matrices, muon
from firstlight.training.memory import estimate as memory
from firstlight.training.memory.estimate import check_memory, numbers_kept, sizes_of

SIZES = {"vocab_size": 257, "context_length": 8, "emb_dim": 64, "n_heads": 2, "n_layers": 4}
TRAINER = {"_target_": "firstlight.training.trainer.Trainer"}


def of_torch(kind, **kwargs):
    def make(model, lr):
        return kind(model.parameters(), lr=lr, **kwargs)

    make.__name__ = f"{kind.__name__}{kwargs or ''}"
    return make


OPTIMIZERS = [
    *(partial(adamw, decay=decay) for decay in ("matrices", "all")),
    *(partial(muon, decay=decay) for decay in ("matrices", "all")),
    partial(adamw, fused=True),
    of_torch(optim.SGD),
    of_torch(optim.SGD, momentum=0.9),
    of_torch(optim.AdamW, amsgrad=True),
    of_torch(optim.NAdam),
    of_torch(optim.RAdam),
    of_torch(optim.Adamax),
    of_torch(optim.RMSprop, centered=True, momentum=0.5),
    of_torch(optim.Adagrad),
    of_torch(optim.Adadelta),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=map(str, range(len(OPTIMIZERS))))
def test_numbers_kept_are_those_of_a_real_optimizer_after_a_step(tiny_gpt, make):
    model = tiny_gpt(tie_weights=True)
    optimizer = make(model, lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [
        tensor
        for state in optimizer.state.values()
        for tensor in state.values()
        if isinstance(tensor, torch.Tensor) and tensor.dim() > 0
    ]
    with torch.device("meta"):
        shapes = tiny_gpt(tie_weights=True)
    assert numbers_kept(make(shapes, lr=1e-3)) == sum(tensor.numel() for tensor in kept)


def test_an_optimizer_whose_step_looks_at_numbers_is_taken_for_adamw(tiny_gpt):
    with torch.device("meta"):
        model = tiny_gpt()
    assert numbers_kept(optim.Adafactor(model.parameters())) == 2 * model.n_parameters


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
        sizes = sizes_of(without_weights(partial(GPT, **SIZES)), optimizer, precision)
        assert sizes.n_optimizer == kept
        check = partial(check_memory, sizes, data, TRAINER | {"precision": precision})
        monkeypatch.setattr(
            memory, "device_memory", lambda _, needed=needed: ("this computer", needed)
        )
        check()
        monkeypatch.setattr(
            memory, "device_memory", lambda _, needed=needed: ("this computer", needed - 1)
        )
        with pytest.raises(
            ValueError, match=r"parameters need at least .* lower model\.n_layers, model\.emb_dim"
        ):
            check()


def test_of_weights_in_parts_a_process_needs_its_part(tiny_gpt, tiny_data, monkeypatch):
    data = tiny_data(context_length=8)
    data.setup()
    sizes = sizes_of(without_weights(partial(GPT, **SIZES)), partial(adamw, lr=1e-3), "32-true")
    numbers = sizes.n_parameters + sizes.n_trained + sizes.n_optimizer
    logits = 4 * 2 * 8 * sizes.vocab_size
    monkeypatch.setattr(memory, "device_memory", lambda _: ("the GPU", 2 * numbers + logits))
    trainer = {"_target_": "firstlight.training.trainer.Trainer", "devices": 2}
    trainer |= {"precision": "32-true"}
    check_memory(sizes, data, trainer | {"strategy": "fsdp2"})
    with pytest.raises(ValueError, match="parameters need at least"):
        check_memory(sizes, data, trainer | {"strategy": "ddp"})


def test_precision_auto_is_resolved_before_memory_is_checked(tiny_gpt, tiny_data, monkeypatch):
    """In bf16 the logits of a batch take half as much: what fits then is not refused."""
    from firstlight.training import plan

    asked = []
    monkeypatch.setattr(plan, "resolve_precision", lambda *_: "bf16-mixed")
    monkeypatch.setattr(
        plan, "check_memory", lambda sizes, data, trainer: asked.append(trainer["precision"])
    )
    monkeypatch.setattr(plan, "_network", lambda *_: (_ for _ in ()).throw(InterruptedError))
    data = tiny_data()
    data.setup()
    experiment = SimpleNamespace(
        logger=None,
        data=lambda **_: data,
        order=None,
        optimizer_by_name=partial(adamw, lr=1e-3),
        training_loss=CrossEntropy(),
        network_of=lambda make: make,
        freeze=None,
        seed=1,
    )
    model = partial(tiny_gpt, vocab_size=data.tokenizer.encoding.n_vocab)
    origin = plan.Origin({"trainer": TRAINER | {"precision": "auto"}}, model, data.tokenizer)
    with pytest.raises(InterruptedError):
        plan.prepare(experiment, origin)
    assert asked == ["bf16-mixed"]
