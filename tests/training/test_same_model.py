"""model=same: a run whose model is that of init_from, whoever wrote it."""

import math
from pathlib import Path

import pytest
import torch
import transformers
from foreign_models import write_book, write_huggingface, write_openai, write_qwen3
from tiny_run import TINY, same_weights

from firstlight.cli import main
from firstlight.compose.compose import compose_config
from firstlight.config import build, to_plain
from firstlight.runs.run_folder import RunFolder
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.start import take_same_model

SIZES = ("model.", "tokenizer=")
COMMON = [word for word in TINY if not word.startswith(SIZES)]
SAME = ["model=same", "trainer.max_steps=1", "data.batch_size=4"]


def start(folder, *overrides):
    return main(["train", *COMMON, *SAME, f"output_dir={folder}", *overrides])


def model_of(name):
    return load_checkpoint(find_checkpoint(name, best=False)).build_model()


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_huggingface, "hf:other"),
        (write_qwen3, "other"),
        (write_openai, "other"),
        (lambda other: write_book(other.with_suffix(".pth")), "other.pth"),
    ],
    ids=["Hugging Face's GPT-2", "Qwen3", "OpenAI's", "the book's"],
)
def test_sizes_and_architecture_are_those_of_the_weights(write, name):
    write(Path("other"))
    config = compose_config("train", ["model=same", f"init_from={name}", "model.drop_rate=0.3"])
    take_same_model(config)
    theirs = load_checkpoint(find_checkpoint(name))
    model = build(to_plain(config)["model"])()
    assert type(model) is type(theirs.build_model())
    shapes = {key: weight.shape for key, weight in theirs.build_model().state_dict().items()}
    assert {key: weight.shape for key, weight in model.state_dict().items()} == shapes
    assert config.model.dropout == "fast" and config.model.drop_rate == 0.3
    assert config.data.context_length == 8


def test_the_config_that_is_shown_has_the_model_itself(capsys):
    write_huggingface(Path("other"))
    words = ["model=same", "init_from=hf:other", "model.drop_rate=0.3"]
    assert main(["train", "--cfg", "job", "--package", "model", *words]) == 0
    shown = capsys.readouterr().out
    assert "_target_: firstlight.model.gpt.GPT\n" in shown and "drop_rate: 0.3\n" in shown
    assert "context_length: 8\n" in shown


def test_a_run_starts_from_the_weights_of_a_folder_and_is_resumed():
    """Seen at a rate of next to nothing: the weights are the same."""
    write_huggingface(Path("other"))
    at_rest = ["data.stride=4", "optimizer.lr=1e-30", "scheduler=constant"]
    assert start("run", "init_from=hf:other", *at_rest) == 0
    ids = torch.arange(8)[None]
    assert torch.equal(model_of("run")(ids), model_of("other")(ids))
    assert main(["train", "resume=run", "trainer.max_steps=2"]) == 0


def test_what_is_given_differs_and_the_rest_is_that_of_the_run(train, capsys):
    modern = ["model=modern_nano", "model.n_kv_heads=1", "model.ff_dim=24"]
    assert train("first", *modern, "model.rope_theta=500", "trainer.max_steps=1") == 0
    assert start("second", "init_from=first", "model.drop_rate=0.3", "data.stride=4") == 0
    first, second = RunFolder(Path("first")).config, RunFolder(Path("second")).config
    assert second["model"] == first["model"] | {"drop_rate": 0.3}
    assert second["data"]["context_length"] == 16
    capsys.readouterr()
    assert start("third", "init_from=first", "model.drop_rate=3") == 2
    assert capsys.readouterr().err.startswith("firstlight: model.drop_rate: expected float")
    assert start("third", "init_from=first", "model.n_heads=1") == 2
    assert "they need model.n_heads=2" in capsys.readouterr().err
    assert not Path("third").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("init_from=null", "model: model=same is the model of init_from: give init_from="),
        ("init_from=nowhere", "init_from (nowhere): no such file or run folder"),
        ("init_from=${oc.env:NOWHERE}", "init_from: ${oc.env:NOWHERE}: Environment variable"),
        ("init_from=text.txt", "text.txt"),
    ],
)
def test_without_a_model_to_take_it_ends_in_one_line(override, words, capsys):
    assert start("run", override) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not Path("run").exists()


def test_a_text_of_a_checkpoint_is_never_resolved(train, monkeypatch, capsys):
    from firstlight.checkpoints.model_file import read_model_file, save_model_file

    assert train("first", "trainer.max_steps=1") == 0
    stored = read_model_file(Path("first/model.safetensors"))
    stored.config["model"]["init"] = "${oc.env:SECRET}"
    monkeypatch.setenv("SECRET", "gpt2")
    save_model_file(
        stored.weights, Path("evil.safetensors"), config=stored.config, tokenizer=stored.tokenizer
    )
    assert start("second", "init_from=evil.safetensors") == 2
    assert "model.init: expected 'torch' or 'gpt2'" in capsys.readouterr().err


def test_a_sweep_and_a_repeated_command_have_the_same_model(train):
    assert train("first", "trainer.max_steps=1") == 0
    again = ["init_from=first", "resume=auto", "trainer.max_steps=2"]
    assert start("second", *again) == 0
    assert start("second", *again) == 0
    assert start("plain", "init_from=first", "trainer.max_steps=2") == 0
    assert same_weights("second", "plain")
    assert (
        main(["train", "-m", *COMMON, *SAME, "init_from=first", "output_dir=sweep", "seed=1,2"])
        == 0
    )
    for run in sorted(Path("sweep").glob("?_*")):
        assert RunFolder(run).config["model"]["emb_dim"] == 16


def perplexity(model, tokenizer, text):
    ids = torch.tensor([tokenizer.encode(text)[:200]])
    losses = []
    with torch.no_grad():
        for part in ids.split(8, dim=1):
            logits = model(part)
            logits = getattr(logits, "logits", logits)
            losses += torch.nn.functional.cross_entropy(
                logits[0, :-1], part[0, 1:], reduction="none"
            ).tolist()
    return math.exp(sum(losses) / len(losses))


def test_a_fine_tuned_folder_goes_back_to_transformers_with_equal_perplexity():
    """There and back with a tokenizer as `tokenizers` trains it: special tokens first."""
    import tokenizers

    text = Path("text.txt").read_text()
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(
        [text], vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False
    )
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(config).save_pretrained("theirs")
    made.save("theirs/tokenizer.json")

    changes = ["trainer.max_steps=8", "freeze=trf_blocks.0", "lr_scale=tok_emb:0.5"]
    changes.append("data.test_ratio=0")  # the text is short
    assert start("tuned", "init_from=hf:theirs", *changes) == 0
    assert main(["export", "checkpoint=tuned", "out=back"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("back").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("back")
    loaded = load_checkpoint(find_checkpoint("tuned"))
    assert tokenizer.encode(text) == loaded.build_tokenizer().encode(text) == made.encode(text).ids
    before = transformers.AutoModelForCausalLM.from_pretrained("theirs").eval()
    was, now = perplexity(before, made_encoder(made), text), perplexity(theirs, tokenizer, text)
    assert now == pytest.approx(
        perplexity(loaded.build_model(), loaded.build_tokenizer(), text), rel=1e-5
    )
    assert now < was
    kept = before.transformer.h[0].mlp.c_fc.weight
    assert torch.equal(kept, theirs.transformer.h[0].mlp.c_fc.weight)


def made_encoder(made):
    class Encoder:
        def encode(self, text):
            return made.encode(text).ids

    return Encoder()
