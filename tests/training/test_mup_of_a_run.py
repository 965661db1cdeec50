"""Whole runs with parametrization=mup."""

import json
from pathlib import Path

import pytest
import torch
from tiny_run import TINY, rows_of, same_weights, weights_of

from firstlight.cli import main
from firstlight.compose.compose import compose_config
from firstlight.sources import find_checkpoint, load_checkpoint

MUP = ("parametrization=mup", "parametrization.base_width=8")


def test_a_run_resumes_exactly_and_is_exported_as_ever(train, capsys):
    assert train("whole", *MUP, "trainer.max_steps=4") == 0
    assert ", muP, 2 x the width of 8, heads 8 wide at both" in capsys.readouterr().out
    assert train("halved", *MUP, "trainer.max_steps=2") == 0
    assert main(["train", "resume=halved", "trainer.max_steps=4"]) == 0
    assert rows_of("halved")[-1] == rows_of("whole")[-1]
    assert same_weights("halved", "whole")
    rate = float(rows_of("whole")[-1]["lr"])
    assert rate == compose_config("train", [])["optimizer"]["lr"]  # that of the first group
    transformers = pytest.importorskip("transformers")
    assert main(["export", "checkpoint=whole", "out=exported"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("exported").eval()
    ours = load_checkpoint(find_checkpoint("whole")).build_model().eval()
    ids = torch.arange(16).view(1, 16)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=1e-4, atol=1e-5)


def test_at_the_base_width_the_run_is_the_standard_one(train, trained):
    trained("standard", "trainer.max_steps=2")
    changes = ("parametrization=mup", "parametrization.base_width=16")
    assert train("mup", *changes, "trainer.max_steps=2") == 0
    assert same_weights("mup", "standard") and rows_of("mup") == rows_of("standard")


def test_weights_to_start_from_are_not_scaled(train, trained):
    trained("standard", "trainer.max_steps=2")
    changes = (*MUP, "init_from=standard", "optimizer.lr=1e-30", "trainer.max_steps=1")
    assert train("tuned", *changes) == 0
    before, after = weights_of("standard", best=True), weights_of("tuned")
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_plan_says_it(capsys):
    assert main(["plan", *TINY, *MUP, "plan.steps=0", "plan.format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["parametrization"].startswith("muP, 2 x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("parametrization.base_width=12",), "parametrization.base_width (12) must be a multiple"),
        (("parametrization.base_width=0",), "parametrization.base_width: expected"),
        (("model.init=torch",), "parametrization: model.init (torch) must be gpt2"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(train, changes, words, capsys):
    assert train("refused", *MUP, *changes) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not Path("refused").exists()
