"""Models with more than parameters: what trains can be loaded, or is refused before step 1."""

from functools import partial
from pathlib import Path

import own_models
import pytest
import torch
from tiny_run import same_weights

from firstlight.cli import main
from firstlight.commands.generate import generate
from firstlight.decoding.greedy import Greedy
from firstlight.model.construction import without_weights
from firstlight.sources import find_checkpoint, load_checkpoint

SIZES = {"vocab_size": 31, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 2}
IDS = torch.arange(8)[None]
WORK = (
    "Offsets",
    "FilledOffsets",
    "AttributeOffsets",
    "Number",
    "Counts",
    "TiedLocally",
    "Parametrized",
    "Plain",
    "PlainNumber",
)


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_ALLOW_TARGETS", "own_models")


@pytest.mark.parametrize("name", WORK)
@torch.no_grad()
def test_a_model_made_without_weights_and_given_them_is_the_same(name):
    make = partial(getattr(own_models, name), **SIZES)
    torch.manual_seed(0)
    trained = make().eval()
    state = torch.get_rng_state()
    model = without_weights(make)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(list(model.parameters())) == len(list(trained.parameters()))
    model.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(model.eval()(IDS), trained(IDS))


def test_a_model_of_parameters_alone_is_made_once():
    made = []

    def make():
        made.append(1)
        return own_models.GPT(**SIZES)

    without_weights(make)
    assert len(made) == 1


@pytest.mark.parametrize("name", [*WORK, "nano"])
@pytest.mark.one_in(4)
def test_what_trains_is_loaded_everywhere(train, capsys, name):
    target = f"model._target_=own_models.{name}"
    assert train("run", target, "trainer.max_steps=2") == 0
    loaded = load_checkpoint(find_checkpoint("run", best=False)).build_model()
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    texts = generate(checkpoint="run", decoding=Greedy(), prompt="The", max_new_tokens=3)
    assert "".join(texts).startswith("The")
    assert main(["evaluate", "format=json", "checkpoint=run"]) == 0
    assert train("next", target, "trainer.max_steps=1", "optimizer.lr=1e-30", "init_from=run") == 0
    start = load_checkpoint(find_checkpoint("next", best=False)).build_model()
    # A pass in training may change buffers, as spectral_norm does; it leaves the parameters.
    assert all(map(torch.equal, start.parameters(), loaded.parameters()))
    assert main(["train", "resume=run", "trainer.max_steps=3"]) == 0
    assert train("whole", target, "trainer.max_steps=3") == 0
    assert same_weights("run", "whole")


def test_info_counts_what_trains_of_a_model_whose_constructor_needs_numbers(train, capsys):
    target = "model._target_=own_models.Number"
    assert train("run", target, "trainer.max_steps=1", "freeze=tok_emb") == 0
    capsys.readouterr()
    assert main(["info", "checkpoint=run"]) == 0
    assert "trained: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DrawnOffsets", ["offsets", "persistent=True"]),
        ("WeightOffsets", ["offsets", "from parameters", "persistent=True"]),
        ("LargestWeight", ["values of parameters", "hidden()"]),
        ("Lazy", ["late.weight", "nn.Linear"]),
        ("TwoInOnePlace", ["tok_emb.weight and out_head.weight", "assign one parameter"]),
        ("Scratch", ["more than 4 parameters", "make only those that it keeps"]),
        ("Changing", ["different weights (more)"]),
    ],
)
def test_what_could_not_be_loaded_is_refused_before_anything_is_written(train, capsys, name, words):
    assert train("run", f"model._target_=own_models.{name}") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("firstlight: model: ") and all(word in line for word in words), line
    assert not Path("run").exists()
