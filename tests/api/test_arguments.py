"""A wrong argument of any function of the API is one exception that names the argument."""

import re

import pytest
import torch

import firstlight
from firstlight import choice, interval

HOLDS_ITSELF: dict = {}
HOLDS_ITSELF["data"] = HOLDS_ITSELF


@pytest.fixture(scope="module")
def model(trained) -> firstlight.LanguageModel:
    return firstlight.load(trained)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda run: firstlight.Run(None), "run (None)"),
        (lambda run: firstlight.Run(b"run"), "run (b'run')"),
        (lambda run: firstlight.Run("x" * 5000), "run (x"),
        (lambda run: firstlight.runs(3), "root (3)"),
        (lambda run: firstlight.runs("x" * 5000), "root (x"),
        (lambda run: firstlight.compare("x" * 5000, run), "not a run folder (.hydra/config.yaml: "),
        (lambda run: firstlight.Sweep(3), "sweep (3)"),
        (lambda run: firstlight.train(config_dir=3), "config_dir (3)"),
        (lambda run: firstlight.train(**HOLDS_ITSELF), "data.data.data."),
        (lambda run: firstlight.load(None), "source (None)"),
        (lambda run: firstlight.load(""), "source is empty"),
        (lambda run: firstlight.load([run]), "source ([Run("),
        (lambda run: firstlight.load(run, best="no"), "best ('no')"),
        (lambda run: firstlight.evaluate(None), "checkpoint (None)"),
        (lambda run: firstlight.export(run, None), "out (None)"),
        (lambda run: firstlight.compare([run, run]), "compare(*runs)"),
        (lambda run: firstlight.lightning_module(run), "config (Run("),
        (lambda run: firstlight.lightning_data("data=text"), "config ('data=text')"),
        (lambda run: firstlight.lightning_module({}), "config: Experiment needs 'name'"),
        (
            lambda run: firstlight.lightning_module({**run.config, "seed": "x"}),
            "seed: expected int",
        ),
        (lambda run: firstlight.LanguageModel(torch.nn.Linear(2, 2), None), "model (Linear("),
        (lambda run: interval("a", 1), "interval: low ('a')"),
        (lambda run: interval(1, None), "interval: high (None)"),
        (lambda run: interval(0, float("inf")), "interval: high (inf)"),
        (lambda run: interval(3, 3), "low (3) must be below high (3)"),
        (lambda run: interval(0, 1, log=True), "low (0) must be above 0"),
        (lambda run: interval(0.5, 2, whole=True), "low (0.5): not a whole number"),
        (lambda run: choice(object()), "choice: <object"),
    ],
)
def test_it_is_named(call, named, trained):
    with pytest.raises(firstlight.ConfigError, match=re.escape(named)):
        call(trained)


def test_an_interval_is_written_as_hydra_reads_it():
    assert interval(1, 8, log=True, whole=True).text == "tag(log,int,interval(1,8))"
    assert interval(0.5, 1).text == "interval(0.5,1)"


@pytest.mark.parametrize("text", [None, 3, b"ab", ["a"], [1.5], [[1, 2], [3, 4]], {1: 2}], ids=repr)
def test_a_text_to_be_measured_is_a_text_or_ids(text, model):
    for measure in (model.logits, model.logprobs, model.loss):
        with pytest.raises(firstlight.ConfigError, match=r"^text \("):
            measure(text)


def test_ids_may_be_a_tensor(model):
    ids = model.tokenizer.encode("The lamp")
    assert model.loss(torch.tensor(ids)) == model.loss("The lamp")
    with pytest.raises(firstlight.ConfigError, match="special_tokens"):
        model.loss("The lamp", special_tokens="yes")


@pytest.mark.parametrize("prompt", [None, 3, b"The", {"The"}, {"a": 1}], ids=repr)
def test_a_prompt_is_a_text_or_a_list_of_texts(prompt, model):
    with pytest.raises(firstlight.ConfigError, match=r"^prompt \("):
        model.generate(prompt)
