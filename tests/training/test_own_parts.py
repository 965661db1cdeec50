"""A part of a user's that does not keep its contract is refused before the run's folder is made."""

from functools import partial
from pathlib import Path

import own_parts
import pytest
from torch import optim

from firstlight.optim.base import check_rates_of, rate_at
from firstlight.optim.by_name import frozen, optimizer_by_name

SGD = ("~optimizer", "+optimizer._partial_=true", "+optimizer.lr=0.1")


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "own_parts")


def refusal(train, capsys, *overrides):
    capsys.readouterr()
    assert train("run", *overrides) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["~loss", "+loss._target_=own_parts.MeanLoss"], ["loss: MeanLoss", "shape of ()", "(6,)"]),
        (
            ["~loss", "+loss._target_=own_parts.no_loss"],
            ["loss: own_parts.no_loss returned None", "Loss"],
        ),
        (
            ["~scheduler", "+scheduler._target_=own_parts.Falling"],
            ["scheduler: Falling", "-0.001 at step 1 of"],
        ),
        (
            ["~scheduler", "+scheduler._target_=own_parts.no_schedule"],
            ["scheduler: own_parts.no_schedule returned None"],
        ),
        (
            [*SGD, "+optimizer._target_=own_parts.part"],
            ["optimizer: the SGD does not have ", "others)", "freeze=PATTERN"],
        ),
        (
            [*SGD, "+optimizer._target_=own_parts.unsaid"],
            ["own_parts.unsaid", "does not say that it returns an Optimizer", "-> Optimizer"],
        ),
        (
            [*SGD, "+optimizer._target_=own_parts.forgotten"],
            ["optimizer: own_parts.forgotten returned None", "Optimizer"],
        ),
        (["model._target_=own_parts.no_model"], ["model: own_parts.no_model returned None", "GPT"]),
        (["model._target_=own_parts.NoContext"], ["model: NoContext", "self.context_length"]),
        (["model._target_=own_parts.Pooled"], ["model: Pooled.hidden", "(B, T, C)"]),
        (["model._target_=own_parts.NoReturn"], ["model: NoReturn.hidden", "NoneType"]),
        (["model._target_=own_parts.Wide"], ["model: Wide.output_weight", "vocab_size"]),
    ],
    ids=lambda value: value[-1].rpartition(".")[2] if "=" in value[-1] else "",
)
def test_what_breaks_its_contract_is_one_line_before_anything_is_written(
    train, capsys, overrides, words
):
    line = refusal(train, capsys, *overrides)
    assert all(word in line for word in words), line
    assert not Path("run").exists()


def test_what_a_pass_without_weights_cannot_tell_the_first_step_does(train, capsys):
    assert train("run", "~loss", "+loss._target_=own_parts.LookingMeanLoss") == 2
    err = capsys.readouterr().err
    assert "loss: LookingMeanLoss returns a shape of ()" in err and "Traceback" not in err
    assert train("looking", "loss._target_=own_parts.LookingLoss", "trainer.max_steps=1") == 0


def test_what_is_collected_after_the_row_of_its_step_is_not_put_into_a_later_row(train, capsys):
    assert train("run", "+callbacks.late._target_=own_parts.LateCollector") == 0
    assert "late: on_step_complete is too late to add to the logs" in capsys.readouterr().err
    assert "late" not in Path("run/metrics.csv").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("rate", [-1e-9, float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 1, 10**6 - 1])
def test_a_rate_that_is_none_is_found_without_looking_at_each_of_a_million_steps(step, rate):
    schedule = own_parts.Falling(step=step, to=rate)
    with pytest.raises(ValueError, match="Falling gives a learning rate of"):
        check_rates_of(schedule, max_steps=10**6, peak=1e-3)


def test_what_torch_asks_for_after_the_last_step_is_no_rate_of_the_run():
    schedule = own_parts.Falling(step=10)
    check_rates_of(schedule, max_steps=10, peak=1e-3)
    assert rate_at(schedule, 10, max_steps=10, peak=1e-3) == -1e-3


def test_an_optimizer_may_leave_out_what_is_frozen_and_nothing_else(tiny_gpt):
    def of_the_rest(model):
        return optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)

    model = frozen(tiny_gpt, "tok_emb")
    optimizer_by_name(model, make=of_the_rest, lr_scale=None)
    with pytest.raises(ValueError, match=r"SGD does not have pos_emb.weight \(nor \d+ others\)"):
        optimizer_by_name(model, make=partial(own_parts.part, lr=0.1), lr_scale=None)
