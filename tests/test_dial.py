"""model=dial: one number decides the model and how it is trained."""

import itertools

import pytest

from firstlight.cli import main
from firstlight.commands.train import arguments
from firstlight.compose.compose import compose_config
from firstlight.compose.help import help_page
from firstlight.dial import Dial
from firstlight.model.dialed import DialedGPT
from firstlight.runs.run_folder import RunFolder

pytestmark = pytest.mark.cpu


def composed(*overrides):
    return arguments(compose_config("train", ["model=dial", *overrides]))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_parameters_are_counted_without_the_model(depth):
    model = DialedGPT(depth=depth, vocab_size=300, context_length=16)
    assert model.n_parameters == Dial(depth, 300, 16).n_parameters


def test_gpt_2_small_in_size():
    dial = Dial(12, 50_304, 1024)
    assert dial.emb_dim == 768
    assert dial.max_tokens == 20 * dial.n_parameters == 2_471_777_280
    # 6 * 12 * 7,077,888 parameters, and 12 * 12 * 768 * 1,024 for attention, for each token
    assert dial.flops == pytest.approx(6.2285e8 * dial.max_tokens, rel=1e-4)
    assert dial.batch_size == 256  # .2920 * 1.5396e18^.3271 = 259,705 tokens
    assert dial.lr == 1.7e-3
    # tau = 1.084 * 20^-.527 = .2236: 262,144 / (1.7e-3 * 2.4718e9 * .2236)
    assert dial.weight_decay == 0.28
    assert (dial.n_steps, dial.eval_every_n_steps) == (9429, 471)


def test_a_larger_model_is_trained_longer_in_larger_batches_at_a_lower_rate():
    dials = [Dial(depth, 2048, 256) for depth in range(1, 65)]
    for smaller, larger in itertools.pairwise(dials):
        assert larger.max_tokens > smaller.max_tokens
        assert larger.batch_size >= smaller.batch_size
        assert larger.lr <= smaller.lr


def test_the_config_has_what_follows_from_the_depth():
    config = composed("model.depth=2", "tokenizer=bytes")
    dial = Dial(2, 257, 256)
    assert config["trainer"]["max_tokens"] == dial.max_tokens
    assert config["trainer"]["max_steps"] is None
    assert config["data"]["batch_size"] == dial.batch_size
    assert config["optimizer"]["lr"] == dial.lr
    assert config["optimizer"]["weight_decay"] == dial.weight_decay
    assert config["scheduler"]["warmup_steps"] == "10%"
    assert config["data"]["stride"] is None  # quickstart's, and of no other experiment


def test_a_value_that_is_given_counts_and_the_others_follow_it():
    config = composed("model.depth=2", "data.batch_size=3", "trainer.max_tokens=1000000")
    dial = Dial(2, 2048, 256, given_tokens=10**6, given_batch=3)
    assert config["data"]["batch_size"] == 3
    assert config["optimizer"]["lr"] == dial.lr != Dial(2, 2048, 256).lr
    assert config["optimizer"]["weight_decay"] == dial.weight_decay
    of_steps = composed("trainer.max_steps=40")["trainer"]
    assert (of_steps["max_steps"], of_steps["max_tokens"]) == (40, None)
    assert of_steps["eval_every_n_steps"] == 2


def test_rates_and_weight_decay_follow_a_learning_rate_that_is_given():
    config = composed("model.depth=2", "optimizer.lr=3e-4")
    rule = Dial(2, 2048, 256)
    assert config["optimizer"]["lr"] == 3e-4 < rule.min_lr  # the rule's would be refused
    assert config["scheduler"]["min_lr"] == 3e-5
    assert config["scheduler"]["initial_lr"] == 3e-6
    ratio = config["optimizer"]["weight_decay"] / rule.weight_decay
    assert ratio == pytest.approx(rule.lr / 3e-4, rel=0.1)  # both have two digits


def test_a_step_of_several_batches_is_as_large_as_one_of_one():
    config = composed("model.depth=2", "trainer.accumulate_grad_batches=4")
    rule = Dial(2, 2048, 256)
    assert config["data"]["batch_size"] == rule.batch_size // 4
    assert config["optimizer"]["weight_decay"] == rule.weight_decay
    assert config["trainer"]["eval_every_n_steps"] == rule.eval_every_n_steps
    given = composed(
        "model.depth=2", f"data.batch_size={rule.batch_size}", "trainer.accumulate_grad_batches=4"
    )
    every = given["trainer"]["eval_every_n_steps"]
    assert every == pytest.approx(rule.eval_every_n_steps / 4, abs=1)


def test_a_schedule_without_a_warmup_has_no_rules_and_another_with_one_has_them():
    constant = composed("scheduler=constant")["scheduler"]
    assert constant == {"_target_": "firstlight.optim.constant.Constant"}
    stable = composed("scheduler=warmup_stable_decay")
    assert stable["scheduler"]["min_lr"] == pytest.approx(stable["optimizer"]["lr"] / 10, rel=0.1)
    assert stable["scheduler"]["warmup_steps"] == "10%"


def test_another_model_has_nothing_of_it():
    config = compose_config("train", ["model=nano"])
    assert "dial" not in str(config)
    page = help_page("train", "", [], None, "all")
    assert "rules" not in str(page)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=dial", "model.depth=65"], "model.depth: expected int > 0 and <= 64, got 65"),
        (["model=dial", "model.depth=six"], "model.depth: expected int > 0 and <= 64, got 'six'"),
        (["model=dial", "data.context_length=0"], "data.context_length: expected int > 0"),
        (["model=dial", "optimizer.lr=${dial:rate}"], "NAME is one of max_tokens, batch_size, lr,"),
        (["optimizer.lr=${dial:lr}"], "the model has no depth from which to decide it; take model"),
        (
            ["model=dial", "parametrization=mup"],
            "is for the standard parametrization; give optimizer.lr",
        ),
        (["model=dial", "model.n_heads=4"], "model.n_heads: model=dial has no such key"),
    ],
)
def test_a_mistake_is_one_line(words, told, capsys):
    assert main(["train", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_a_run_trains_and_is_exported_as_the_architecture_that_it_is(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["model=dial", "model.depth=1", "model.context_length=32", "tokenizer=bytes"]
    length = ["trainer.max_tokens=10000", "trainer.accelerator=cpu", "logger=[]"]
    assert main(["train", *words, *length, f"output_dir={run}", "~callbacks.plots"]) == 0
    config = RunFolder(run).config
    dial = Dial(1, 257, 32, given_tokens=10**4)
    assert config["data"]["batch_size"] == dial.batch_size  # values, not rules, are stored
    assert config["optimizer"]["lr"] == dial.lr
    out = tmp_path / "hf"
    assert main(["export", f"checkpoint={run}", "format=hf", f"out={out}"]) == 0
    assert '"Qwen3ForCausalLM"' in (out / "config.json").read_text()
