"""What is on the ladder, what becomes of rungs that fail, and what is suggested; no run is made."""

import pytest
import torch

from firstlight.bench import ladder as ladders
from firstlight.bench.command import arguments
from firstlight.bench.ladder import Ladder, nested, steps, suggestions
from firstlight.bench.runs import FailedError, MeasuredRun
from firstlight.bench.stopwatch import Timing
from firstlight.compose.compose import compose_config

pytestmark = pytest.mark.cpu

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settings_of(*overrides):
    """The config of a short run and the settings of `bench`, with `overrides`."""
    return arguments(
        compose_config("bench", ["trainer.accelerator=cpu", "bench.rounds=2", *overrides])
    )


def left_out(*overrides, device=CPU):
    """Why the steps that do not apply are left out."""
    config, settings = settings_of(*overrides)
    return {
        step.name: step.left_out for step in steps(config.plain, settings, device) if step.left_out
    }


@pytest.fixture
def climbed(monkeypatch, tmp_path):
    """A function that climbs a ladder on which `rate` and `loss` of a config are the runs'."""
    monkeypatch.setattr(
        ladders, "resolve_precision", lambda name, _: "bf16-mixed" if name == "auto" else name
    )

    def climb(*overrides, rate=lambda config: 1.0, loss=lambda config: 5.0):
        config, settings = settings_of(*overrides)

        def measure(config, warmup_steps, folder):
            timing = Timing(tokens_per_step=1000, seconds=[1 / rate(config.plain)])
            return MeasuredRun(timing, loss(config.plain))

        monkeypatch.setattr(ladders, "measure", measure)
        ladder = Ladder(
            config, settings, device=CPU, peak=10**6, work=tmp_path, tell=lambda text: None
        )
        ladder.climb()
        return ladder

    return climb


def rate_of(config):
    """Each setting of the ladder multiplies."""
    rate = 1.1 if config["optimizer"].get("fused") else 1.0
    rate *= 1.2 if config["model"].get("dropout") == "fast" else 1.0
    rate *= 1.5 if config["trainer"]["precision"] == "auto" else 1.0
    return rate * (1.3 if config["data"]["batch_size"] > 16 else 1.0)


def test_steps_that_do_not_apply_say_why():
    reasons = left_out("~model.dropout", "~optimizer.fused", "bench.most_batch=1")
    assert reasons["fast dropout"] == "this model has no dropout"
    assert reasons["fused optimizer"] == "this optimizer has no fused"
    assert reasons["padded vocabulary"] == "2048 is a multiple of 64"
    assert reasons["larger batch"] == "bench.most_batch is 1"
    assert "bench.compile=true tries it" in reasons["compile"]
    assert left_out("bench.compile=false")["compile"] == "bench.compile is false"
    assert (
        left_out("init_from=x", "tokenizer=bytes")["padded vocabulary"] == "it comes with init_from"
    )


def test_a_ladder_has_what_its_device_can_use(monkeypatch):
    for auto in ("32-true", "bf16-mixed"):
        monkeypatch.setattr(ladders, "resolve_precision", lambda *_, auto=auto: auto)
        assert ("precision" in left_out()) == (auto == "32-true")
    assert "compile" in left_out() and "compile" not in left_out("bench.compile=true")
    on_gpu = left_out(device=GPU)
    assert "compile" not in on_gpu and on_gpu["fast dropout"] == "on cuda dropout is always torch's"
    config, settings = settings_of()
    plain = next(steps(config.plain, settings, GPU))
    assert "model.dropout" not in plain.settings


def test_each_rung_is_the_one_before_and_its_own_settings(climbed):
    ladder = climbed("tokenizer=bytes", rate=rate_of)
    names = [
        "plain",
        "fast dropout",
        "fused optimizer",
        "precision",
        "padded vocabulary",
        "batch x2",
        "batch x4",
    ]
    assert [rung.name for rung in ladder.rungs] == names
    assert [rung.name for rung in ladder.rungs if rung.is_config] == ["precision"]
    assert all(len(rung.runs) == 2 for rung in ladder.rungs)
    last = ladder.rungs[-1].config.plain
    assert (
        last["model"]["vocab_size"] == 320
        and last["model"]["dropout"] == "fast"
        and last["optimizer"]["fused"]
    )
    assert (
        last["data"]["batch_size"] == 64 and last["data"]["eval_batches"] == 1
    )  # the same windows are evaluated


def test_a_rung_that_fails_is_not_carried_on(climbed):
    def rate(config):
        if config["trainer"]["precision"] == "auto" or config["data"]["batch_size"] > 32:
            raise FailedError("out of memory")
        return 1.0

    ladder = climbed("trainer.precision=32-true", "bench.most_batch=16", rate=rate)
    assert {rung.name for rung in ladder.rungs if rung.problem} == {"precision", "batch x4"}
    assert ladder.rungs[-1].name == "batch x4"
    (double,) = (rung for rung in ladder.rungs if rung.name == "batch x2")
    assert double.config.plain["trainer"]["precision"] == "32-true" and not double.problem


def test_whatever_becomes_of_plain_the_others_are_built_on_it(climbed):
    def rate(config):
        if config["model"]["dropout"] == "torch":
            raise FailedError("out of memory")
        return rate_of(config)

    ladder = climbed(rate=rate)
    assert ladder.rungs[0].problem == "out of memory"
    fast = ladder.rungs[1].config.plain
    assert fast["model"]["dropout"] == "fast" and not fast["optimizer"]["fused"]
    assert fast["trainer"]["precision"] == "32-true"


def test_a_larger_batch_is_not_tried_where_it_may_end_the_process(climbed, monkeypatch):
    monkeypatch.setattr(ladders, "device_memory", lambda _: ("this computer", 3 * 10**6))
    ladder = climbed()
    assert [rung.problem[:9] for rung in ladder.rungs[-2:]] == ["", "not tried"]


def test_the_fastest_rung_is_suggested_by_what_it_differs_in(climbed):
    ladder = climbed("model.dropout=torch", "trainer.precision=32-true", rate=rate_of)
    suggestion, larger = suggestions(ladder)
    assert suggestion.rung.name == "precision" and suggestion.times == pytest.approx(1.8)
    assert suggestion.overrides == ["trainer.precision=auto", "model.dropout=fast"]
    assert larger is not None and larger.overrides[-1] == "data.batch_size=32"


def test_a_rung_that_learns_less_is_not_suggested(climbed):
    ladder = climbed(
        "model.dropout=torch",
        "trainer.precision=32-true",
        rate=rate_of,
        loss=lambda config: 5.2 if config["trainer"]["precision"] == "auto" else 5.05,
    )
    suggestion, larger = suggestions(ladder)
    assert suggestion.overrides == ["model.dropout=fast"]
    assert larger is not None and larger.overrides == [
        "model.dropout=fast",
        "data.batch_size=32",
    ]  # built without it


def test_of_what_is_hardly_faster_the_config_is_suggested(climbed):
    ladder = climbed(
        "bench.most_batch=1",
        rate=lambda config: 1.01 if config["model"]["dropout"] == "torch" else 1.0,
    )
    suggestion, larger = suggestions(ladder)
    assert suggestion.rung.is_config and suggestion.overrides == [] and larger is None


def test_what_is_faster_within_the_spread_of_the_rounds_is_not_suggested(climbed):
    rounds: dict[tuple, int] = {}

    def rate(config):
        at = (
            config["model"]["dropout"],
            config["optimizer"]["fused"],
            config["trainer"]["precision"],
            config["data"]["batch_size"],
        )
        rounds[at] = rounds.get(at, 0) + 1
        noise = 0.3 * (rounds[at] % 2)  # of two rounds the first is faster by it
        return (
            {"torch": 1.0, "fast": 2.0}[config["model"]["dropout"]]
            + 0.2 * config["optimizer"]["fused"]
            + noise
        )

    slow = ("model.dropout=torch", "optimizer.fused=false", "trainer.precision=32-true")
    suggestion, larger = suggestions(climbed(*slow, rate=rate))
    assert suggestion.overrides == ["model.dropout=fast"] and larger is None


def test_settings_are_nested_as_sections_are():
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
