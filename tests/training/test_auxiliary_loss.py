"""A loss of the model itself, which training adds and evaluations leave out."""

from functools import partial

import pytest
import torch
from own_models import Balanced
from tiny_run import rows_of

from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.training.callbacks.throughput import training_flops_per_token
from firstlight.training.module import PretrainingModule

AUXILIARY = "model._target_=own_models.Balanced"


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "own_models")


def test_training_lowers_it_and_evaluations_do_not_have_it(train):
    assert train("with", AUXILIARY, "trainer.max_steps=2", "optimizer.lr=1e-30") == 0
    assert train("without", "trainer.max_steps=2", "optimizer.lr=1e-30") == 0
    with_it, without = rows_of("with")[-1], rows_of("without")[-1]
    assert with_it["val/loss"] == without["val/loss"]
    added = float(with_it["train/batch_loss"]) - float(without["train/batch_loss"])
    assert added == pytest.approx(Balanced.weight, rel=1e-3)


def test_a_batch_in_parts_has_the_same_one(train):
    settings = [AUXILIARY, "trainer.max_steps=3", "model.drop_rate=0"]
    assert train("whole", *settings) == 0
    assert train("parts", *settings, "trainer.micro_batch_size=3") == 0
    for whole, parts in zip(rows_of("whole"), rows_of("parts"), strict=True):
        for name in filter(whole.get, ("train/batch_loss", "grad_norm")):
            assert float(parts[name]) == pytest.approx(float(whole[name]), rel=1e-4)


def test_its_gradient_reaches_the_parameters(tiny_data):
    data = tiny_data()
    data.setup()
    model = Balanced(
        vocab_size=300, context_length=8, emb_dim=12, n_heads=3, n_layers=1, drop_rate=0.0
    )
    make = partial(torch.optim.SGD, lr=0.1)
    module = PretrainingModule(
        model=model, data=data, loss=CrossEntropy(), optimizer=make, scheduler=None, config={}
    )
    module.mean_loss(data.windows["train"][torch.arange(2)]).backward()
    assert float(model.balance.grad) == pytest.approx(Balanced.weight)


def test_flops_of_a_model_that_looks_at_its_numbers_are_counted_with_them():
    sizes = {"vocab_size": 31, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 1}
    model = Balanced(**sizes)
    plain = training_flops_per_token(model)
    model.looks = True
    before = [parameter.clone() for parameter in model.parameters()]
    assert training_flops_per_token(model) == plain
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, before, model.parameters()))
