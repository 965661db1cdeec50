"""`freeze` and `lr_scale` of whole runs."""

import json
from pathlib import Path

import pytest
from tiny_run import rows_of, same_weights, weights_of

from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.folder_io import read_folder
from firstlight.cli import main

BY_NAME = ["freeze=[tok_emb,trf_blocks.0.att]", "lr_scale=[pos_emb:0.1,*norm?:2]"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_with_frozen_parts_is_resumed_bit_for_bit(train, optimizer, capsys):
    changes = [*BY_NAME, f"optimizer={optimizer}", "trainer.max_steps=4"]
    assert train("whole", *changes) == 0
    told = capsys.readouterr().out
    assert ", 2.5k of them trained, 256 at 0.1 of the learning rate, 64 at 2 of" in told
    assert train("halved", *changes, "trainer.max_steps=2") == 0
    assert main(["train", "resume=halved", "trainer.max_steps=4"]) == 0
    assert rows_of("halved")[-1] == rows_of("whole")[-1]
    assert same_weights("halved", "whole")
    state = read_folder(checkpoints_of(Path("whole"))[-1]).state["optimizer_states"][0]
    assert len(state["state"]) < len(weights_of("whole"))
    capsys.readouterr()
    assert main(["info", "checkpoint=whole", "format=json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert best["trained"] == 2480 < best["parameters"]
    assert main(["train", "resume=whole", "trainer.max_steps=6", "freeze=tok_emb"]) == 2


def test_what_is_frozen_has_the_weights_that_it_started_from(train):
    assert train("first", "trainer.max_steps=1") == 0
    assert train("second", "trainer.max_steps=2", "init_from=first", *BY_NAME) == 0
    before, after = weights_of("first"), weights_of("second")
    same = {name for name in after if (before[name] == after[name]).all()}
    assert same == {n for n in after if n.startswith(("tok_emb", "out_head", "trf_blocks.0.att"))}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "freeze=blocks.0",
            "freeze (blocks.0): matches no parameter of GPT; did you mean trf_blocks.0",
        ),
        ("lr_scale=tok_em:0.1", "lr_scale (tok_em:0.1): matches no parameter of GPT; did you mean"),
        ("lr_scale=tok_emb", "expected PATTERN:FACTOR"),
        ("freeze=[]", ""),
    ],
)
def test_a_pattern_that_fits_nothing_ends_in_one_line_and_no_folder(train, override, words, capsys):
    code = 2 if words else 0
    assert train("first", "trainer.max_steps=1", override) == code
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == (1 if words else told.count("\n"))
    assert Path("first").exists() == (code == 0)
