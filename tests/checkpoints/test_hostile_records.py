"""Checkpoints of our own format whose plain data is not what firstlight writes: one line each."""

import json

import pytest
import safetensors.torch
import torch

from firstlight.checkpoints.model_file import _digest
from firstlight.cli import main

SIZES = {"vocab_size": 257, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 1}
TOKENIZER = {
    "name": "bytes", "pattern": r"[\s\S]", "tokens": [f"{b:02x}" for b in range(256)], "end_of_text": 256,
    "vocab_size": 257,
}  # fmt: skip
GOOD = {
    "format": 2,
    "config": {"model": {"_target_": "firstlight.model.gpt.GPT", "_partial_": True, **SIZES}},
    "tokenizer": TOKENIZER,
}
BAD = {
    "no record": 3,
    "another format": {**GOOD, "format": 99},
    "no config": {key: value for key, value in GOOD.items() if key != "config"},
    "a config that is none": {**GOOD, "config": 3},
    "a tokenizer that is none": {**GOOD, "tokenizer": [1]},
    "no size of the vocabulary": {
        **GOOD,
        "tokenizer": {k: v for k, v in TOKENIZER.items() if k != "vocab_size"},
    },
    "a token that is no bytes": {**GOOD, "tokenizer": {**TOKENIZER, "tokens": ["zz"]}},
    "a pattern that is none": {**GOOD, "tokenizer": {**TOKENIZER, "pattern": "("}},
    "a vocabulary with a gap": {**GOOD, "tokenizer": {**TOKENIZER, "vocab_size": 3}},
    "a model of nothing": {**GOOD, "config": {"model": {}}},
    "an enormous model": {
        **GOOD,
        "config": {"model": {**GOOD["config"]["model"], "vocab_size": 10**12}},
    },
}


@pytest.fixture
def written(tmp_path, tiny_gpt):
    """A factory: a file with a record, and the checksum that a forger would give it."""

    def write(record, **changed):
        weights, file = tiny_gpt(**SIZES).state_dict() | changed, tmp_path / "model.safetensors"
        weights, text = (
            {name: weight.clone() for name, weight in weights.items()},
            json.dumps(record),
        )
        metadata = {"format": "pt", "firstlight": text, "sha256": _digest(text, weights)}
        safetensors.torch.save_file(weights, file, metadata=metadata)
        return file

    return write


def test_the_record_that_the_others_spoil_is_good(written, capsys):
    assert main(["generate", f"checkpoint={written(GOOD)}", "prompt=a", "max_new_tokens=1"]) == 0


@pytest.mark.parametrize("record", BAD.values(), ids=BAD)
def test_a_spoilt_record_is_one_line(written, record, capsys):
    file = written(record)
    assert main(["generate", f"checkpoint={file}", "prompt=a", "accelerator=cpu"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Traceback" not in err


def test_weights_that_are_whole_numbers_are_refused(written, capsys):
    file = written(GOOD, **{"final_norm.bias": torch.zeros(12, dtype=torch.int64)})
    assert main(["generate", f"checkpoint={file}", "prompt=a", "accelerator=cpu"]) == 2
    assert "final_norm.bias does not hold floating-point numbers" in capsys.readouterr().err


@pytest.mark.parametrize("left_out", ["pos_emb.weight", "trf_blocks"])
def test_a_part_of_the_books_model_is_refused(tiny_gpt, tmp_path, left_out, capsys):
    state = {
        k: v
        for k, v in tiny_gpt(emb_dim=64, n_heads=1).state_dict().items()
        if not k.startswith(left_out)
    }
    state["final_norm.scale"] = state.pop("final_norm.weight")
    torch.save(state, tmp_path / "model.pth")
    assert (
        main(["generate", f"checkpoint={tmp_path / 'model.pth'}", "prompt=a", "accelerator=cpu"])
        == 2
    )
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("key", ["checkpoint", "out"])
def test_a_name_too_long_for_a_file_is_refused(key, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"checkpoint": "nowhere", "out": "out"} | {key: "x" * 300}
    assert main(["export", *(f"{k}={v}" for k, v in words.items())]) == 2
    assert capsys.readouterr().err.count("\n") == 1
