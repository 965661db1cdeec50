"""`init_from`: what a run takes over from the weights it starts from."""

from pathlib import Path

import pytest
import torch
from tiny_run import TINY, rows_of, same_weights

from firstlight.checkpoints.model_file import read_model_file, save_model_file
from firstlight.cli import main
from firstlight.sources import find_checkpoint, load_checkpoint

IDS = torch.arange(8)[None]


def model_of(run):
    """The last weights of a run, as a model."""
    return load_checkpoint(find_checkpoint(run, best=False)).build_model()


@pytest.fixture
def first(train):
    """A run of one step, untied and without biases of query, key and value."""
    assert (
        train("first", "trainer.max_steps=1", "model.tie_weights=false", "model.qkv_bias=false")
        == 0
    )
    return "first"


def test_the_tokenizer_comes_with_the_weights(train, capsys):
    Path("other.txt").write_text("Quite another text, in which other letters come together. " * 60)
    assert train("first", "trainer.max_steps=1", "tokenizer=bpe", "tokenizer.vocab_size=270") == 0
    capsys.readouterr()
    changes = ["data=text", "data.path=other.txt", "trainer.max_steps=1"]
    assert train("third", *changes, "init_from=first") == 2  # it asks for bytes
    assert "leave it out" in capsys.readouterr().err
    asked = [word for word in TINY if word != "tokenizer=bytes"]
    assert main(["train", *asked, "output_dir=second", *changes, "init_from=first"]) == 0
    first, second = (
        load_checkpoint(find_checkpoint(run, best=False)) for run in ("first", "second")
    )
    assert first.tokenizer == second.tokenizer
    assert second.build_model().vocab_size == 270
    assert "the tokenizer is that of" in capsys.readouterr().err
    assert main(["train", "resume=second", "trainer.max_steps=2"]) == 0
    assert load_checkpoint(find_checkpoint("second", best=False)).tokenizer == first.tokenizer


def test_biases_come_with_the_weights(train, first, capsys):
    untied = ["trainer.max_steps=1", "optimizer.lr=1e-30", "model.tie_weights=false"]
    assert train("second", *untied, "init_from=first") == 0  # the default has biases
    assert torch.equal(model_of("second")(IDS), model_of("first")(IDS))
    assert "model.qkv_bias True -> False" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override", ["model.qkv_bias=true", "model.vocab_size=300", "tokenizer.vocab_size=300"]
)
@pytest.mark.one_in(3)
def test_what_was_asked_for_is_never_changed_in_silence(train, first, override, capsys):
    assert train("second", override, "init_from=first", "model.tie_weights=false") == 2
    assert "the weights in first" in capsys.readouterr().err
    assert not Path("second").exists()


@pytest.mark.long
def test_a_shorter_context_takes_the_first_positions(train):
    assert train("first", "trainer.max_steps=1") == 0
    shorter = ["model.context_length=8", "data.stride=8"]
    assert (
        train("second", "trainer.max_steps=1", "optimizer.lr=1e-30", *shorter, "init_from=first")
        == 0
    )
    assert model_of("second").context_length == 8
    torch.testing.assert_close(model_of("second")(IDS), model_of("first")(IDS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("context_length", [pytest.param(8, marks=pytest.mark.long), 32])
def test_a_modern_model_takes_any_context_and_the_sizes_that_the_weights_have(
    train, context_length, capsys
):
    modern = ["model=modern_nano", "trainer.max_steps=1", "optimizer.lr=1e-30"]
    assert (
        train("first", *modern, "model.n_kv_heads=1", "model.ff_dim=24", "model.qk_norm=false") == 0
    )
    capsys.readouterr()
    other = [f"model.context_length={context_length}", "data.stride=8", "model.tie_weights=false"]
    assert train("second", *modern, *other, "init_from=first") == 0
    told = capsys.readouterr().err
    assert all(
        f"model.{change}" in told
        for change in ("n_kv_heads 2 -> 1", "ff_dim None -> 24", "qk_norm True -> False")
    )
    assert model_of("second").context_length == context_length
    assert torch.equal(model_of("second")(IDS), model_of("first")(IDS))
    assert train("third", *modern, "model.rope_theta=500", "init_from=first") == 2
    assert "they need model.rope_theta=10000.0" in capsys.readouterr().err


@pytest.mark.long
def test_a_tied_head_becomes_one_of_its_own(train):
    assert train("first", "trainer.max_steps=1", "model.tie_weights=true") == 0
    untied = ["model.tie_weights=false", "optimizer.lr=1e-30"]
    assert train("second", "trainer.max_steps=1", *untied, "init_from=first/model.safetensors") == 0
    second = model_of("second")
    assert second.out_head.weight is not second.tok_emb.weight
    assert torch.equal(second(IDS), model_of("first")(IDS))


def test_a_head_of_its_own_cannot_be_tied(train, first, capsys):
    assert train("second", "model.tie_weights=true", f"init_from={first}") == 2
    assert "tie_weights must be false" in capsys.readouterr().err
    assert not Path("second").exists()


@pytest.mark.long
def test_a_started_run_is_resumed_as_what_it_is(train, first):
    changes = ["trainer.max_steps=4", "model.tie_weights=false", f"init_from={first}"]
    assert train("whole", *changes) == 0
    assert train("halved", *changes, "trainer.max_steps=2") == 0
    assert main(["train", "resume=halved", "trainer.max_steps=4"]) == 0
    assert len(rows_of("halved")) == len(rows_of("whole"))
    assert same_weights("halved", "whole")


@pytest.mark.parametrize("key", ["vocab_size", "qkv_bias"])
def test_a_start_from_elsewhere_calls_nothing(train, first, key, capsys):
    stored = read_model_file(Path("first/model.safetensors"))
    stored.config["model"][key] = {"_target_": "firstlight.data.cache.cache_dir"}
    save_model_file(
        stored.weights, Path("evil.safetensors"), config=stored.config, tokenizer=stored.tokenizer
    )
    assert train("second", "init_from=evil.safetensors") == 2
    assert "may have one _target_" in capsys.readouterr().err
