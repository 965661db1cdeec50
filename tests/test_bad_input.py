"""Every mistake of a user's: exit code 2, one clear line for each, no traceback, nothing written,
no step trained.

Composing a command line takes Hydra a third of a second: mistakes that are only found later, in
values, are tested on one composed config (`refused_values`), the others on whole command lines
(`refused`).
"""

import copy
import os
import pickle
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from firstlight.cli import main
from firstlight.compose.arguments import parse_arguments
from firstlight.compose.compose import check_single_values, compose_config
from firstlight.compose.hydra_calls import parse_overrides
from firstlight.errors import ConfigError
from firstlight.packages import with_extra

SENTENCE = "The lamp was lit by the keeper every night, and the ships came home. "
LONGEST = 300
"""Characters of a line: a message that is longer is not read."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in, and a cache of the test's own; returns the folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FIRSTLIGHT_ALLOW_TARGETS", raising=False)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of inputs, good and bad."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "good.txt").write_text(SENTENCE * 40)  # 2,760 bytes
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text(" \n\t\n" * 500)
    (folder / "short.txt").write_text("lamp")
    (folder / "one_window.txt").write_text(SENTENCE[:40])  # train 36 bytes, validation and test 2
    (folder / "latin1.txt").write_bytes(("x" * 1000 + "é" * 1000).encode("latin-1"))
    (folder / "utf16.txt").write_bytes((SENTENCE * 40).encode("utf-16"))
    (folder / "folder_of_pictures").mkdir()
    (folder / "folder_of_pictures" / "lamp.png").write_bytes(b"\x89PNG")
    (folder / "special.txt").write_text((SENTENCE + "<|endoftext|>") * 40)
    return folder


@pytest.fixture
def no_training(monkeypatch):
    """A run that gets as far as training is one that was not refused."""
    from firstlight.training.trainer import Trainer

    def began(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "fit", began)


def tiny(texts, *overrides):
    """The smallest run there is, with `overrides`."""
    return [
        "train",
        "data=text",
        f"data.path={texts / 'good.txt'}",
        "tokenizer=bytes",
        "model.context_length=16",
        "model.emb_dim=16",
        "model.n_heads=2",
        "model.n_layers=1",
        "data.batch_size=2",
        "trainer.max_steps=2",
        "trainer.eval_every_n_steps=1",
        "trainer.accelerator=cpu",
        "scheduler.warmup_steps=1",
        "logger=[]",
        *overrides,
    ]


def quick(texts, *overrides):
    """`tiny` with nothing but checkpoints, for runs that are to succeed."""
    unneeded = ("learning_rate_monitor", "throughput", "sample_generation", "progress", "plots")
    words = [word for word in tiny(texts) if not word.startswith("scheduler.")]
    return [*words, "scheduler=constant", *(f"~callbacks.{name}" for name in unneeded), *overrides]


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory):
    """The folder of a finished run, with a context of 64 tokens and a vocabulary of 257."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["model.context_length=64", "data.test_ratio=0", f"output_dir={folder}"]
    assert main(quick(texts, *words)) == 0
    return folder


@pytest.fixture(scope="module")
def book_run(texts, tmp_path_factory):
    """The folder of a run in the book's order."""
    folder = tmp_path_factory.mktemp("runs") / "book"
    assert main(quick(texts, "order=book", f"output_dir={folder}")) == 0
    return folder


@pytest.fixture
def refused(capsys, place, no_training):
    """Run a command line that is a mistake; check what every mistake must look like; return its
    lines.
    """

    def check(arguments, *words, lines=1):
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        print(err)  # shown by pytest if something below is not so
        assert code == 2
        assert "Traceback" not in err
        assert out == ""
        said = err.splitlines()
        assert len(said) == lines
        for line in said:
            assert line.startswith("firstlight: ")
            assert len(line) < LONGEST
        for word in words:
            assert word in err
        assert list(place.iterdir()) == []
        return said

    return check


@pytest.fixture(scope="module")
def composed(texts):
    """The config of `tiny`."""
    config = compose_config("train", tiny(texts)[1:])
    del config.sweep, config.seeds  # what train takes off
    return config


@pytest.fixture
def refused_values(capsys, composed, place, no_training):
    """Fit `tiny` with overrides that compose, but are a mistake; check the lines that `main` would
    show.
    """
    from firstlight.config import build, check_config
    from firstlight.training.experiment import Experiment
    from firstlight.training.fit import fit

    def run(config):
        plain = check_config(config, Experiment)
        fit(Experiment(**build(plain)), plain, [])

    def check(overrides, *words, lines=1):
        config = copy.deepcopy(composed)
        for override in parse_overrides(overrides):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
        with pytest.raises(ConfigError) as caught:
            run(config)
        said = str(caught.value).splitlines()
        print(caught.value)
        assert len(said) == lines
        for line in said:
            assert len(f"firstlight: {line}") < LONGEST
        for word in words:
            assert word in str(caught.value)
        assert list(place.iterdir()) == []
        return said

    return check


@pytest.fixture
def refused_call(capsys, place):
    """Call what `verb` calls with overrides that are a mistake; check the lines that `main` would
    show.
    """
    from firstlight.commands.evaluate import arguments as evaluation_arguments
    from firstlight.commands.evaluate import evaluate
    from firstlight.commands.generate import generate
    from firstlight.config import build, check_config

    def call(verb, words):
        overrides = parse_arguments(verb, words).overrides
        check_single_values(verb, overrides)
        config = compose_config(verb, overrides)
        if verb == "generate":
            generate(**build(check_config(config, generate)))
        else:
            evaluate(**evaluation_arguments(config))

    def check(arguments, *words):
        with pytest.raises(ConfigError) as caught:
            call(arguments[0], arguments[1:])
        print(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(f"firstlight: {caught.value}") < LONGEST
        for word in words:
            assert word in str(caught.value)
        assert list(place.iterdir()) == []

    return check


def snapshot(folder):
    """Every file below `folder`, with its size and time."""
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*")}


def table(*rows):
    """Parameters (arguments, words) from rows (id, arguments, words); arguments and words are split
    at spaces.
    """
    return pytest.mark.parametrize(
        ("arguments", "words"), [pytest.param(a.split(), w, id=i) for i, a, w in rows]
    )


# ---- the command line itself


@table(
    ("unknown verb", "trian", ["'trian'", "did you mean 'train'", "evaluate", "generate"]),
    ("no verb, an override", "optimizer.lr=1", ["optimizer.lr=1", "train"]),
    ("unknown option of the program", "--verbose", ["--verbose", "train"]),
    ("unknown option of a verb", "train --epochs=3", ["--epochs=3", "key=value"]),
    ("unknown option with a value apart", "train --epochs 3", ["--epochs", "key=value"]),
    (
        "an option of Hydra's that is not ours",
        "train --experimental-rerun=x",
        ["--experimental-rerun=x", "unknown option"],
    ),
    (
        "options that exclude each other",
        "train --run --info",
        ["--run", "--info", "exclude each other"],
    ),
    ("an option of another one", "train --package=model", ["--package", "--cfg job"]),
    (
        "a section that is not there",
        "train --cfg=job --package=modle",
        ["--package modle", "no such section"],
    ),
    (
        "configs from two places",
        "train --config-dir . hydra.searchpath=[a]",
        ["hydra.searchpath", "--config-dir"],
    ),
    (
        "a sweep of another verb",
        "evaluate -m checkpoint=a,b",
        ["-m is for train only", "call evaluate once"],
    ),
    ("word without =", "train quickstart", ["'quickstart'", "key=value", "--help"]),
    (
        "config folder that is not there",
        "train --config-dir nowhere",
        ["--config-dir", "nowhere", "no such folder"],
    ),
)
def test_a_command_line_that_is_no_command_is_refused(refused, arguments, words):
    refused(arguments, *words)


@pytest.mark.parametrize("chosen", ["loss=nope", "callbacks=[default,nope]"])
def test_the_choices_of_a_config_dir_are_listed(refused, tmp_path, chosen):
    group, _, _ = chosen.partition("=")
    folder = tmp_path / "myconf" / group
    folder.mkdir(parents=True)
    (folder / "own_choice.yaml").write_text("{}\n")
    words = ["train", "--config-dir", str(tmp_path / "myconf"), chosen]
    refused(words, f"{group}=nope: no such choice", "own_choice")


@table(
    ("misspelt key", "model.emb_dimm=32", ["model.emb_dimm", "did you mean 'model.emb_dim'"]),
    ("misspelt key at the top", "seeed=1", ["seeed", "did you mean 'seed'"]),
    (
        "misspelt key of the trainer",
        "trainer.max_step=3",
        ["trainer.max_step", "did you mean 'trainer.max_steps'"],
    ),
    ("misspelt section", "optimiser.lr=1", ["optimiser.lr", "did you mean 'optimizer.lr'"]),
    ("right key, no section", "lr=1", ["lr", "did you mean 'optimizer.lr'"]),
    ("right key, wrong section", "model.lr=1", ["model.lr", "did you mean 'optimizer.lr'"]),
    (
        "misspelt key of another choice",
        "experiment=quickstart_modern optimizer.momentums=1",
        ["optimizer.momentums", "did you mean 'optimizer.momentum'"],
    ),
    (
        "key like none but an internal one",
        "optimizer._target=1",
        ["optimizer._target", "optimizer.lr"],
    ),
    (
        "a group of another verb",
        "decoding=greedy",
        ["decoding", "callbacks.sample_generation.decoding"],
    ),
    (
        "key of what was taken away",
        "~callbacks.checkpoint callbacks.checkpoint.keep_last=1",
        [
            "callbacks.checkpoint.keep_last",
            "has no such key",
            "choose what has: 'callbacks=[default]'",
        ],
    ),
    ("internal key that is there", "+optimizer._target_=x", ["optimizer._target_", "already"]),
    ("key longer than a file's name", f"{'a' * 300}=1", ["no such key"]),
    ("nothing like it", "frobnicate=1", ["frobnicate", "no such key", "--help"]),
    ("misspelt group", "modle=nano", ["modle", "did you mean 'model'"]),
    (
        "misspelt choice",
        "model=nanoo",
        ["model=nanoo", "did you mean 'nano'", "gpt2_small", "gpt2_xl"],
    ),
    (
        "choice nothing like any",
        "tokenizer=sentencepiece",
        ["tokenizer=sentencepiece", "bpe, bytes, gpt2"],
    ),
    (
        "misspelt experiment",
        "experiment=quikstart",
        ["experiment=quikstart", "did you mean 'quickstart'"],
    ),
    (
        "one wrong of a list",
        "callbacks=[default,early_stoping]",
        ["early_stoping", "did you mean 'early_stopping'"],
    ),
    ("a logger we do not have", "logger=[comet]", ["logger=comet", "csv", "tensorboard", "wandb"]),
    ("added key", "+model.foo=1", ["model.foo", "GPT has no 'foo'"]),
    ("forced key", "++model.foo=1", ["model.foo", "GPT has no 'foo'"]),
    ("forced misspelt key", "++model.n_layer=1", ["model.n_layer", "did you mean 'n_layers'"]),
    ("added key at the top", "+foo=1", ["foo", "no such key"]),
    ("added key that is there", "+model.emb_dim=32", ["model.emb_dim"]),
    (
        "removed key that is not there",
        "~callbacks.plotz",
        ["callbacks.plotz", "did you mean 'callbacks.plots'"],
    ),
    ("removed key that is needed", "~model.n_layers", ["model", "'n_layers' is needed"]),
    ("removed section that is needed", "~tokenizer", ["tokenizer"]),
    ("comma without -m", "optimizer.lr=1e-3,1e-4", ["optimizer.lr=1e-3,1e-4", "-m"]),
    ("bracket left open", "model.n_layers=[1,2", ["model.n_layers=[1,2"]),
    ("no key", "=3", ["=3"]),
    ("a group that is a number", "model=3", ["model=3", "nano"]),
    ("the base of a group", "model=base", ["model=base", "(dial, gpt2_large, gpt2_medium, "]),
    ("a group that is null", "model=null", ["model", "nano"]),
    ("interpolation of nothing", "name=${nope}", ["name", "nope"]),
    ("name above outputs", "name=a/../../up", ["name (a/../../up): a folder below outputs/"]),
    (
        "interpolation of no variable",
        "name=${oc.env:FIRSTLIGHT_NO_SUCH}",
        ["name", "FIRSTLIGHT_NO_SUCH"],
    ),
    ("interpolation without a resolver", "name=${frob:1}", ["name", "frob"]),
    ("interpolation in what is read first", "trainer.devices=${nope}", ["trainer.devices", "nope"]),
    ("interpolation in a time-out", "trainer.timeout=${nope}", ["trainer.timeout", "nope"]),
)
@pytest.mark.one_in(3)
def test_overrides_that_do_not_compose_are_refused(refused, texts, arguments, words):
    refused(tiny(texts, *arguments), *words)


@table(
    (
        "another than the default",
        "data.path=my.txt",
        [
            "data.path: what is chosen of data has no such key",
            "choose what has: data=shards data.path=my.txt or data=text data.path=my.txt",
        ],
    ),
    (
        "another than the one that is chosen",
        "data=pydoc data.path=my.txt",
        ["data.path: data=pydoc has no such key", "or data=text data.path=my.txt"],
    ),
    (
        "a callback that is not chosen",
        "callbacks.early_stopping.patience=3",
        ["'callbacks=[default,early_stopping]' callbacks.early_stopping.patience=3"],
    ),
    (
        "several others",
        "data.field=story",
        ["other choices of data have (fineweb_edu, hub, huggingface, text, tinystories)"],
    ),
    (
        "a size of the model that init_from gives",
        "model=same model.n_layers=1",
        ["model.n_layers: model=same has no such key (The model that init_from=RUN gives)"],
    ),
)
def test_a_key_of_another_choice_is_refused(refused, arguments, words):
    refused(["train", *arguments], *words)


@table(
    (
        "of Lightning's Trainer",
        "trainer.detect_anomaly=true",
        ["trainer.detect_anomaly: not listed", "be added: +trainer.detect_anomaly=true"],
    ),
    (
        "of it, misspelt",
        "trainer.detect_anomly=true",
        ["did you mean '+trainer.detect_anomaly'?"],
    ),
    (
        "of torch's optimizer",
        "--config-dir CONF optimizer=adagrad optimizer.lr_decay=0.1",
        ["optimizer.lr_decay: not listed", "be added: +optimizer.lr_decay=0.1"],
    ),
    (
        "that a run has no use for",
        "trainer.max_time=1",
        ["trainer.max_time: cannot be set: a run is one pass", "max_steps"],
    ),
    (
        "the same, added",
        "+trainer.max_time=1",
        ["trainer.max_time: cannot be set: a run is one pass", "max_steps"],
    ),
    ("that fit gives", "trainer.default_root_dir=x", ["trainer.default_root_dir: the run folder"]),
    ("that fit gives a logger", "+logger.csv.save_dir=x", ["logger.csv.save_dir: a logger writes"]),
    ("that fit gives the data", "+data.order=x", ["data.order: the order of the windows is set"]),
)
def test_an_argument_that_a_class_has_and_its_file_does_not_list(
    refused, tmp_path, arguments, words
):
    folder = tmp_path / "conf" / "optimizer"
    folder.mkdir(parents=True)
    text = "_target_: torch.optim.Adagrad\n_partial_: true\nlr: 1e-2\n"
    (folder / "adagrad.yaml").write_text(text)
    said = [word.replace("CONF", str(folder.parent)) for word in arguments]
    refused(["train", *said], *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "seeds=${nope}"], "seeds: ${nope}: no such key"),
        (["train", "sweep.params=${nope}"], "sweep.params: ${nope}: no such key"),
        (["train", "-m", "seeds=${nope}"], "seeds: ${nope}: no such key"),
        (["train", "-m", "seeds=2", "seed=${nope}"], "seed: ${nope}: no such key"),
        (["train", "-m", "seeds=2", "output_dir=${nope}"], "output_dir: ${nope}: no such key"),
        (["train", "-m", "seeds=2", "seed=x"], "seed: expected int >= 0 and < 4294967296, got"),
        (["plan", "plan=${nope}"], "plan: ${nope}: no such key"),
    ],
)
def test_a_key_of_a_sweep_or_verb_that_cannot_be_resolved_is_refused(refused, arguments, words):
    refused(arguments, words)


def test_a_text_dataset_without_a_path_is_refused(refused):
    refused(["train", "data=text"], "data.path", "a value is needed")


def test_every_mistake_of_a_command_line_is_reported_at_once(refused, texts):
    said = refused(
        tiny(
            texts,
            "+model.foo=1",
            "optimizer.lr=-1",
            "data.shuffle=perhaps",
            "scheduler.warmup_steps=2.5",
        ),
        lines=4,
    )
    for key in ("model.foo", "optimizer.lr", "data.shuffle", "scheduler.warmup_steps"):
        assert any(line.startswith(f"firstlight: {key}: ") for line in said)


# ---- types

SHOWN = {
    "2.5": "2.5",
    "true": "True",
    "abc": "'abc'",
    "null": "None",
    "[1,2]": "[1, 2]",
    "": "''",
    "{a: 1}": "{'a': 1}",
    "2": "2",
    "3": "3",
}


@pytest.mark.parametrize(
    ("key", "kind", "values"),
    [
        ("model.n_layers", "int", ["2.5", "true", "abc", "null", "[1,2]", "", "{a: 1}"]),
        ("data.batch_size", "int", ["2.5", "true", "abc", "null", "[1,2]", ""]),
        ("trainer.max_steps", "int", ["2.5", "true", "abc", "[1,2]", ""]),
        ("optimizer.lr", "float", ["true", "abc", "null", "[1,2]", ""]),
        ("data.train_ratio", "float", ["true", "abc", "null", "[1,2]", ""]),
        ("data.shuffle", "bool", ["2.5", "2", "abc", "null", "[1,2]", ""]),
        ("name", "non-empty str", ["2.5", "true", "null", "[1,2]"]),
        ("output_dir", "non-empty str", ["2.5", "null"]),
        ("data.path", "non-empty str", ["2.5", "null", "[1,2]"]),
        ("optimizer.betas", "tuple", ["abc", "null", "3"]),
    ],
)
def test_a_value_of_another_type_is_refused(refused_values, key, kind, values):
    for value in values:
        refused_values([f"{key}={value}"], f"{key}: expected {kind}", f"got {SHOWN[value]}")


# ---- ranges


@table(
    ("lr negative", "optimizer.lr=-1e-3", ["optimizer.lr", "> 0", "-0.001"]),
    ("lr 0", "optimizer.lr=0", ["optimizer.lr", "> 0", "got 0"]),
    ("lr nan", "optimizer.lr=nan", ["optimizer.lr", "> 0", "nan"]),
    ("lr inf", "optimizer.lr=inf", ["optimizer.lr", "> 0", "inf"]),
    ("lr -inf", "optimizer.lr=-inf", ["optimizer.lr", "> 0", "-inf"]),
    ("eps 0", "optimizer.eps=0", ["optimizer.eps", "> 0"]),
    (
        "weight decay negative",
        "optimizer.weight_decay=-0.1",
        ["optimizer.weight_decay", ">= 0", "-0.1"],
    ),
    ("weight decay nan", "optimizer.weight_decay=nan", ["optimizer.weight_decay", ">= 0", "nan"]),
    ("beta 1", "optimizer.betas=[0.9,1.0]", ["optimizer.betas", "< 1", "[0.9, 1.0]"]),
    ("three betas", "optimizer.betas=[0.9,0.95,0.99]", ["optimizer.betas", "[0.9, 0.95, 0.99]"]),
    ("one beta", "optimizer.betas=[0.9]", ["optimizer.betas", "[0.9]"]),
    ("what decays", "optimizer.decay=none", ["optimizer.decay", "'matrices'", "'all'", "'none'"]),
    ("drop rate 1", "model.drop_rate=1.0", ["model.drop_rate", "< 1", "1.0"]),
    ("drop rate negative", "model.drop_rate=-0.1", ["model.drop_rate", ">= 0", "-0.1"]),
    ("drop rate nan", "model.drop_rate=nan", ["model.drop_rate", "nan"]),
    ("init", "model.init=xavier", ["model.init", "'torch'", "'gpt2'", "'xavier'"]),
    ("no layers", "model.n_layers=0", ["model.n_layers", "> 0", "got 0"]),
    ("no heads", "model.n_heads=0", ["model.n_heads", "> 0", "got 0"]),
    ("heads do not divide", "model.n_heads=3", ["emb_dim (16)", "divisible", "n_heads (3)"]),
    ("train ratio 0", "data.train_ratio=0", ["data.train_ratio", "> 0", "got 0"]),
    ("train ratio 1", "data.train_ratio=1", ["data.train_ratio", "< 1", "got 1"]),
    ("train ratio in percent", "data.train_ratio=90", ["data.train_ratio", "< 1", "got 90"]),
    ("train ratio negative", "data.train_ratio=-0.5", ["data.train_ratio", "> 0", "-0.5"]),
    ("train ratio nan", "data.train_ratio=nan", ["data.train_ratio", "nan"]),
    ("test ratio 1", "data.test_ratio=1", ["data.test_ratio", "< 1", "got 1"]),
    (
        "ratios leave nothing",
        "data.test_ratio=0.1",
        ["train_ratio (0.9)", "test_ratio (0.1)", "less than 1"],
    ),
    ("batch 0", "data.batch_size=0", ["data.batch_size", "> 0", "got 0"]),
    ("batch negative", "data.batch_size=-2", ["data.batch_size", "> 0", "-2"]),
    ("stride 0", "data.stride=0", ["data.stride", "> 0", "got 0"]),
    ("stride negative", "data.stride=-1", ["data.stride", "> 0", "-1"]),
    ("stride that skips", "data.stride=17", ["stride (17)", "context_length (16)"]),
    (
        "window longer than the context",
        "data.context_length=17",
        ["data.context_length (17)", "16"],
    ),
    ("workers negative", "data.num_workers=-1", ["data.num_workers", ">= 0", "-1"]),
    ("evaluation of nothing", "data.eval_batches=0", ["data.eval_batches", "> 0", "got 0"]),
    ("seed negative", "seed=-1", ["seed", ">= 0", "-1"]),
    ("seed too large", "seed=4294967296", ["seed", "4294967296"]),
    (
        "warm-up as long as the run",
        "scheduler.warmup_steps=2",
        ["warmup_steps (2)", "2 steps", "add scheduler.warmup_steps=0"],
    ),
    (
        "warm-up longer than the run",
        "scheduler.warmup_steps=50",
        ["warmup_steps (50)", "2 steps", "add scheduler.warmup_steps=0"],
    ),
    ("warm-up negative", "scheduler.warmup_steps=-1", ["scheduler.warmup_steps", ">= 0", "-1"]),
    ("initial lr above lr", "scheduler.initial_lr=1", ["initial_lr (1", "optimizer.lr (0.001)"]),
    ("min lr above lr", "scheduler.min_lr=1", ["min_lr (1", "optimizer.lr (0.001)"]),
    ("min lr negative", "scheduler.min_lr=-1", ["scheduler.min_lr", ">= 0", "-1"]),
    ("no steps", "trainer.max_steps=0", ["trainer.max_steps", "> 0", "got 0"]),
    ("steps negative", "trainer.max_steps=-5", ["trainer.max_steps", "> 0", "-5"]),
    ("two lengths", "trainer.max_epochs=1", ["max_steps and max_epochs", "exactly one", "null"]),
    (
        "three lengths",
        "trainer.max_epochs=1 trainer.max_tokens=99",
        ["max_steps and max_epochs and max_tokens"],
    ),
    (
        "no length",
        "trainer.max_steps=null",
        ["exactly one of max_steps, max_epochs and max_tokens", "none"],
    ),
    ("less than a step", "trainer.max_steps=null trainer.max_tokens=31", ["max_tokens (31)", "32"]),
    (
        "epochs 0",
        "trainer.max_steps=null trainer.max_epochs=0",
        ["trainer.max_epochs", "> 0", "got 0"],
    ),
    ("epochs inf", "trainer.max_steps=null trainer.max_epochs=inf", ["trainer.max_epochs", "inf"]),
    (
        "accumulate 0",
        "trainer.accumulate_grad_batches=0",
        ["trainer.accumulate_grad_batches", "> 0", "got 0"],
    ),
    ("clip 0", "trainer.gradient_clip_val=0", ["trainer.gradient_clip_val", "> 0", "got 0"]),
    ("clip negative", "trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val", "> 0", "-1"]),
    ("log every 0", "trainer.log_every_n_steps=0", ["trainer.log_every_n_steps", "> 0", "got 0"]),
    (
        "evaluate every 0",
        "trainer.eval_every_n_steps=0",
        ["trainer.eval_every_n_steps", "> 0", "got 0"],
    ),
    (
        "evaluate never",
        "trainer.eval_every_n_steps=null",
        ["trainer.eval_every_n_steps", "> 0", "None"],
    ),
    ("no devices", "trainer.devices=0", ["trainer.devices", "> 0", "got 0"]),
    ("devices do not divide", "trainer.devices=3", ["devices (3", "data.batch_size (2)"]),
    (
        "vocabulary below the bytes",
        "tokenizer.vocab_size=100",
        ["tokenizer.vocab_size", ">= 257", "100"],
    ),
    (
        "model's vocabulary below",
        "model.vocab_size=200",
        ["model.vocab_size (200)", "at least 257"],
    ),
    (
        "sample of nothing",
        "callbacks.sample_generation.max_new_tokens=0",
        ["sample_generation.max_new_tokens", "> 0"],
    ),
    (
        "sample without a prompt",
        "callbacks.sample_generation.prompt=",
        ["sample_generation.prompt", "''"],
    ),
    (
        "sample at -1",
        "callbacks.sample_generation.decoding.temperature=-1",
        ["decoding.temperature", ">= 0", "-1"],
    ),
    (
        "save every 0",
        "callbacks.checkpoint.every_n_steps=0",
        ["callbacks.checkpoint.every_n_steps", "> 0", "got 0"],
    ),
    (
        "monitor of nothing",
        "callbacks.checkpoint.monitor=val/los",
        ["callbacks.checkpoint.monitor", "val/los"],
    ),
)
def test_a_value_out_of_range_is_refused(refused_values, arguments, words):
    refused_values(arguments, *words)


@table(
    ("momentum 1", "momentum=1", ["optimizer.momentum", "< 1", "got 1"]),
    ("momentum negative", "momentum=-0.1", ["optimizer.momentum", ">= 0", "-0.1"]),
    ("no iterations", "ns_steps=0", ["optimizer.ns_steps", "> 0", "got 0"]),
    ("as many iterations as torch refuses", "ns_steps=100", ["optimizer.ns_steps", "< 100", "100"]),
    ("lr 0", "lr=0", ["optimizer.lr", "> 0", "got 0"]),
    ("beta 1", "betas=[0.9,1.0]", ["optimizer.betas", "< 1", "[0.9, 1.0]"]),
)
@pytest.mark.one_in(3)
def test_a_value_out_of_range_of_muon_is_refused(refused, texts, arguments, words):
    refused(
        tiny(texts, "optimizer=muon", *(f"optimizer.{argument}" for argument in arguments)), *words
    )


def test_what_an_optimizer_refuses_is_a_mistake_in_its_section(refused, texts):
    overrides = ["optimizer=muon", "optimizer.nesterov=false", "trainer.precision=bf16-true"]
    refused(tiny(texts, *overrides), "optimizer: nesterov (False) must be true", "bfloat16")


@table(
    ("decay negative", "decay_ratio=-0.1", ["scheduler.decay_ratio", ">= 0", "-0.1"]),
    ("decay in percent", "decay_ratio=20", ["scheduler.decay_ratio", "<= 1", "got 20"]),
    (
        "decay of another shape",
        "decay_shape=cosine",
        ["decay_shape", "'linear'", "'sqrt'", "'cosine'"],
    ),
    (
        "no room to decay",
        "decay_ratio=1",
        ["scheduler: warmup_steps (1)", "2 steps of decay_ratio (1"],
    ),
    ("min lr above lr", "min_lr=1", ["min_lr (1", "optimizer.lr (0.001)"]),
)
@pytest.mark.one_in(3)
def test_a_value_out_of_range_of_a_decay_is_refused(refused, texts, arguments, words):
    stable = "scheduler=warmup_stable_decay"
    refused(tiny(texts, stable, *(f"scheduler.{argument}" for argument in arguments)), *words)


@pytest.mark.parametrize("value", ["50256", "0"])
def test_a_vocabulary_below_gpt2s_is_refused(refused, texts, value, monkeypatch):
    import tiktoken

    # GPT-2's size and no download: the file may not be on this machine
    encoding = tiktoken.Encoding(
        "gpt2", pat_str="x", mergeable_ranks={b"x": 0}, special_tokens={"<|endoftext|>": 50256}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
    refused(tiny(texts, "tokenizer=gpt2", f"tokenizer.vocab_size={value}"), "vocab_size", value)


# ---- devices


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu", "toaster", "null", "3"])
def test_a_device_that_is_not_to_be_had_is_refused(refused_values, accelerator):
    import torch

    if accelerator in ("gpu", "cuda", "mps") and (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    ):
        pytest.skip("there may be one here")
    refused_values([f"trainer.accelerator={accelerator}"], "trainer", "accelerator")


def test_the_way_out_of_a_missing_device_is_the_cpu(refused, texts):
    refused(
        tiny(texts, "trainer.accelerator=toaster"), "trainer", "toaster", "trainer.accelerator=cpu"
    )


@pytest.mark.parametrize("precision", ["float32", "bf17", "31", "[32]"])
def test_a_precision_that_does_not_exist_is_refused(refused_values, precision):
    refused_values([f"trainer.precision={precision}"], "precision", "32-true", "bf16-mixed")


@pytest.mark.parametrize("strategy", ["dpp", "null", "3"])
def test_a_strategy_that_does_not_exist_is_refused(refused_values, strategy):
    refused_values([f"trainer.strategy={strategy}"], "strategy")


# ---- texts


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("empty.txt", ["empty.txt", "no text"]),
        ("blank.txt", ["blank.txt", "no text"]),
        ("nowhere.txt", ["nowhere.txt", "no such file"]),
        ("latin1.txt", ["latin1.txt", "not UTF-8", "byte 1000", "0xe9", "iconv"]),
        ("utf16.txt", ["utf16.txt", "not UTF-8", "byte 0", "0xff"]),
        ("folder_of_pictures", ["folder_of_pictures", ".txt"]),
        ("short.txt", ["train split", "16", "longer text"]),
        (
            "one_window.txt",
            [
                "val split",
                "2 tokens",
                "16",
                "data.train_ratio=0.",
                "data.test_ratio=0",
                "longer text",
            ],
        ),
    ],
)
def test_a_text_that_cannot_be_trained_on_is_refused(refused_values, texts, file, words):
    refused_values([f"data.path={texts / file}"], "data", *words)


@pytest.mark.parametrize("value", ["", "[]", "['']"])
def test_an_empty_path_is_not_the_present_folder(capsys, place, texts, no_training, value):
    (place / "private.txt").write_text(SENTENCE * 40)  # what `data.path=$UNSET` must not train on
    assert main(tiny(texts, f"data.path={value}")) == 2
    err = capsys.readouterr().err
    assert "data.path" in err and ("non-empty str" in err or "path is empty" in err)
    assert [file.name for file in place.iterdir()] == ["private.txt"]


def test_a_text_without_permission_is_refused(refused_values, monkeypatch):
    read_bytes = Path.read_bytes

    def deny(self, *args, **kwargs):
        if self.name == "good.txt":
            raise PermissionError(13, "Permission denied", str(self))
        return read_bytes(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_bytes", deny)
    refused_values([], "data", "good.txt", "cannot be read", "Permission denied")


def test_a_ratio_that_leaves_no_window_of_training_is_refused(refused_values):
    refused_values(
        ["data.train_ratio=0.001"],
        "train split",
        "2 tokens",
        "model.context_length=1",
        "longer text",
    )


def test_a_test_split_without_a_window_is_refused(refused_values):
    refused_values(["data.test_ratio=0.001"], "test split", "2 tokens", "longer text")


def test_the_ratio_that_is_advised_works(refused, texts):
    said = refused(tiny(texts, "data.train_ratio=0.999"), "val split", "data.train_ratio=")
    advised = said[0].partition("data.train_ratio=")[2].split()[0]
    with pytest.raises(AssertionError, match="training began"):
        main(tiny(texts, f"data.train_ratio={advised}"))


def test_a_batch_larger_than_the_training_windows_is_refused(refused_values):
    refused_values(["data.batch_size=1000"], "batch_size (1000)", "at most 155", "drop_last=false")


@pytest.mark.parametrize("special_tokens", ["true", "false"])
def test_the_special_token_may_stand_in_a_text(texts, place, special_tokens):
    arguments = quick(
        texts, f"data.path={texts / 'special.txt'}", f"data.special_tokens={special_tokens}"
    )
    assert main([*arguments, "trainer.max_steps=2", "output_dir=here"]) == 0
    assert (place / "here" / "model.safetensors").is_file()


# ---- where the run goes


@pytest.mark.parametrize("below", ["", "/run"])
def test_an_output_folder_below_a_file_is_refused(refused_values, texts, below):
    wanted = f"{texts / 'good.txt'}/runs{below}"
    refused_values(
        [f"output_dir={wanted}"], f"output_dir ({wanted})", "cannot be made", "output_dir="
    )


@pytest.mark.parametrize("wanted", ["", ".", "/"])
def test_an_output_folder_without_a_name_is_refused(refused_values, wanted):
    refused_values([f"output_dir={wanted}"], "output_dir")


def test_an_output_folder_without_permission_is_refused(refused_values, monkeypatch):
    mkdir = Path.mkdir

    def deny(self, *args, **kwargs):
        if self.name == "here":
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", deny)
    refused_values(["output_dir=here"], "output_dir (here)", "Permission denied", "output_dir=")


def test_an_output_name_that_is_too_long_is_refused(refused_values):
    refused_values([f"output_dir={'x' * 256}"], "output_dir", "too long")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["compare", LONG, "b"], "too long"),
        (["compare", f"{LONG}/a", "b"], "too long"),
        (["compare", "a", "b", f"out={LONG}/out"], "out (x"),
        (["train", "--config-dir", LONG], "no such folder"),
        (["train", f"model={LONG * 20}"], "too long"),
        (["train", f"callbacks=[default,{LONG}/x]"], "callbacks/x"),
        (["train", "data=shards", f"data.path={LONG}"], "path (x"),
        (["train", "data=text", f"data.path={LONG}"], "path (x"),
    ],
)
def test_a_path_that_is_too_long_is_one_line_and_makes_nothing(words, named, capsys, place):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1
    assert not list(place.iterdir())


# ---- checkpoints


VERBS = pytest.mark.parametrize("verb", ["train", "evaluate", "generate"])


def verb_with(verb, checkpoint):
    """A command line of `verb` that starts from `checkpoint`."""
    return [verb, f"checkpoint={checkpoint}", *(["prompt=lamp"] if verb == "generate" else [])]


@pytest.fixture
def refused_checkpoint(refused_call, refused_values):
    """`verb` from `checkpoint` is a mistake."""

    def check(verb, checkpoint, *words):
        if verb == "train":
            refused_values(["model.context_length=64", f"init_from={checkpoint}"], *words)
        else:
            refused_call(verb_with(verb, checkpoint), *words)

    return check


@VERBS
def test_a_checkpoint_that_is_not_there_is_refused(refused_checkpoint, tmp_path, verb):
    missing = tmp_path / "nowhere"
    refused_checkpoint(verb, missing, str(missing), "no such file")


@VERBS
def test_a_folder_without_a_checkpoint_is_refused(refused_checkpoint, texts, verb):
    refused_checkpoint(verb, texts, str(texts), "checkpoints/")


@VERBS
def test_the_last_run_of_none_is_refused(refused_checkpoint, verb):
    refused_checkpoint(verb, "last", "outputs", "no run")


@VERBS
def test_a_checkpoint_on_the_network_is_refused(refused_checkpoint, verb):
    url = "https://example.com/model.ckpt"
    refused_checkpoint(verb, url, url, "download it first")


@VERBS
def test_an_empty_checkpoint_name_is_no_checkpoint(refused_checkpoint, verb):
    refused_checkpoint(verb, "", "init_from" if verb == "train" else "checkpoint")


@VERBS
def test_a_truncated_checkpoint_is_refused(refused_checkpoint, run, tmp_path, verb):
    whole = (run / "model.safetensors").read_bytes()
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(whole[: len(whole) // 2])
    refused_checkpoint(verb, damaged, str(damaged), "damaged")


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
def test_a_text_is_no_checkpoint(refused_checkpoint, tmp_path, suffix):
    file = tmp_path / f"text{suffix}"
    file.write_text(SENTENCE)
    refused_checkpoint("generate", file, str(file), "damaged, or not a")


def test_tensors_of_somebody_else_are_refused(refused_checkpoint, tmp_path):
    import torch

    file = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, file)
    refused_checkpoint("generate", file, str(file), "neither", "encoder.weight")


def test_a_list_is_no_checkpoint(refused_checkpoint, tmp_path):
    import torch

    file = tmp_path / "list.pth"
    torch.save([torch.zeros(2)], file)
    refused_checkpoint("generate", file, str(file), "not a checkpoint", "list")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.emb_dim=32", ["step_00000002", "another model", "model.emb_dim=16"]),
        ("model.n_layers=2", ["step_00000002", "another model", "model.n_layers=1"]),
        ("model.n_heads=4", ["step_00000002", "another model", "model.n_heads=2"]),
        ("model.context_length=128", ["context_length (128)", "at most 64"]),
    ],
)
def test_the_weights_of_another_model_are_refused(refused_values, run, override, words):
    refused_values(["model.context_length=64", override, f"init_from={run}"], *words)


def test_weights_that_are_not_finite_are_refused(refused_checkpoint, run, tmp_path):
    from firstlight.checkpoints.model_file import read_model_file, save_model_file

    file, stored = tmp_path / "nan.safetensors", read_model_file(run / "model.safetensors")
    weights = {name: weight.clone() for name, weight in stored.weights.items()}
    next(iter(weights.values()))[0] = float("nan")
    save_model_file(weights, file, config=stored.config, tokenizer=stored.tokenizer)
    refused_checkpoint("generate", file, str(file), "not finite")


# ---- attacks


class Attack:
    """Unpickled without care, it makes the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


@VERBS
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(refused_checkpoint, tmp_path, verb, writer):
    import torch

    file, marker = tmp_path / "attack.ckpt", tmp_path / "marker"
    content = {"state_dict": {}, "firstlight": Attack(marker)}
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    refused_checkpoint(verb, file, str(file), *(["code", "refused"] if writer == "torch" else []))
    assert not marker.exists()


TARGETS_OF_ATTACKS = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "subprocess.run",
    "firstlight.cli.os.system",  # what a module of ours imports is not ours
    "firstlight.runs.run_folder.subprocess.run",
    "lightning.pytorch.trainer.trainer.os.system",
    "torch.optim.optimizer.torch.hub.load",
    "firstlightly.model.GPT",
    "",
    "firstlight.",
    "firstlight.model",
    "firstlight.model.gpt.GTP",
]


@pytest.mark.parametrize("target", TARGETS_OF_ATTACKS)
def test_a_target_outside_the_list_is_refused(refused_values, target):
    refused_values([f"model._target_={target}"], "model._target_", repr(target))


@pytest.mark.parametrize("target", ["os.system", "firstlight.model.gpt.GTP"])
def test_a_target_of_the_command_line_is_refused(refused, texts, target):
    refused(tiny(texts, f"model._target_={target}"), "model._target_", repr(target))


def forge(run, file, section, node):
    """A copy of the weights of `run` whose config has `node` as its `section`."""
    from firstlight.checkpoints.model_file import read_model_file, save_model_file

    stored = read_model_file(run / "model.safetensors")
    tokenizer = (
        None if section == "tokenizer" else stored.tokenizer
    )  # if there is none, the config is to build it
    save_model_file(
        stored.weights, file, config={**stored.config, section: node}, tokenizer=tokenizer
    )


@pytest.mark.parametrize("target", ["os.system", "firstlight.cli.os.system"])
@pytest.mark.parametrize(
    ("verb", "section"),
    [("generate", "model"), ("generate", "tokenizer"), ("evaluate", "model"), ("evaluate", "data")],
)
def test_a_call_in_the_config_of_a_checkpoint_is_not_made(
    refused_call, run, tmp_path, verb, section, target
):
    file, marker = tmp_path / "forged.safetensors", tmp_path / "marker"
    forge(run, file, section, {"_target_": target, "command": f"touch {marker}"})
    refused_call(verb_with(verb, file), f"{section}._target_", target)
    assert not marker.exists()


@pytest.mark.parametrize(
    "call", ["_target_: os.system, command: 'touch {}'", "_target_: pathlib.Path.touch, self: {}"]
)
def test_a_call_hidden_in_an_interpolation_of_a_checkpoint_is_not_made(
    refused, run, tmp_path, call
):
    file, marker = tmp_path / "forged.safetensors", tmp_path / "marker"
    hidden = "${oc.create:{" + call.format(marker) + "}}"
    forge(
        run,
        file,
        "data",
        {"_target_": "firstlight.data.text.TextData", "_partial_": True, "path": hidden},
    )
    refused(["evaluate", f"checkpoint={file}"], "data")
    assert not marker.exists()


def test_a_call_in_the_config_of_a_run_is_not_made(refused, run, tmp_path):
    import yaml

    copy, marker = tmp_path / "copy", tmp_path / "marker"
    shutil.copytree(run, copy)
    file = copy / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["callbacks"]["attack"] = {"_target_": "os.system", "command": f"touch {marker}"}
    file.write_text(yaml.safe_dump(config))
    refused(
        ["train", f"resume={copy}", "trainer.max_steps=4"], "callbacks.attack._target_", "os.system"
    )
    assert not marker.exists()


# ---- continuing a run


@pytest.fixture
def refused_resume(refused):
    """Continue the run in `folder`, which is a mistake: nothing in it may change either."""

    def check(folder, arguments, *words):
        before = snapshot(folder)
        refused(["train", f"resume={folder}", *arguments], *words)
        assert snapshot(folder) == before

    return check


def test_a_folder_that_is_no_run_is_not_resumed(refused_resume, texts):
    refused_resume(texts, [], "resume", str(texts), "not a run folder")


def test_a_folder_that_is_not_there_is_not_resumed(refused, tmp_path):
    refused(["train", f"resume={tmp_path / 'nowhere'}"], "resume", "nowhere", "no such folder")


def test_the_last_of_no_runs_is_not_resumed(refused):
    refused(["train", "resume=last"], "last", "outputs/", "no run")


def test_an_empty_name_is_not_resumed(refused):
    refused(["train", "resume="], "resume")


def test_a_number_is_not_resumed(refused):
    refused(["train", "resume=3"], "resume", "3")


def test_a_finished_run_is_not_resumed(refused_resume, run):
    refused_resume(run, [], "resume", "finished", "2 of 2 steps", "trainer.max_steps")


def test_a_run_is_not_resumed_for_fewer_steps(refused_resume, run):
    refused_resume(
        run, ["trainer.max_steps=1"], "resume", "has made 2 steps, more than", "trainer.max_steps"
    )


@pytest.mark.parametrize(
    "override",
    [
        "model.n_layers=3",
        "seed=1",
        "data.batch_size=4",
        "optimizer.lr=1e-4",
        "model=nano",
        "name=x",
        "output_dir=x",
    ],
)
def test_a_resumed_run_keeps_its_past(refused_resume, run, override):
    key = override.partition("=")[0]
    refused_resume(
        run,
        ["trainer.max_steps=4", override],
        key,
        "cannot be changed when resuming",
        "trainer.max_*",
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_steps=2.5", ["trainer.max_steps", "int", "2.5"]),
        ("+trainer.max_step=4", ["trainer.max_step", "did you mean 'max_steps'"]),
        ("trainer.log_every_n_steps=0", ["trainer.log_every_n_steps", "> 0"]),
        ("callbacks.checkpoint.every_n_steps=-1", ["callbacks.checkpoint.every_n_steps", "> 0"]),
        ("~callbacks.plots", ["callbacks.plots"]),  # the shared run has none
    ],
)
def test_what_a_resumed_run_may_change_is_still_checked(refused_resume, run, override, words):
    refused_resume(run, [override], *words)


def test_a_run_in_the_books_order_is_not_resumed(refused_resume, book_run):
    refused_resume(book_run, ["trainer.max_steps=4"], "resume", "order=book", "cannot be resumed")


def test_a_run_whose_text_has_changed_is_not_resumed(refused_resume, run, tmp_path):
    import yaml

    copy, other = tmp_path / "copy", tmp_path / "other.txt"
    shutil.copytree(run, copy)
    other.write_text(SENTENCE.upper() * 40)
    file = copy / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["data"]["path"] = str(other)
    file.write_text(yaml.safe_dump(config))
    refused_resume(copy, ["trainer.max_steps=4"], "data.path", "not the text that", "sha256")


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "\x00"])
def test_a_run_with_a_damaged_config_is_not_resumed(refused_resume, tmp_path, content):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text(content)
    refused_resume(tmp_path / "run", [], "resume", str(tmp_path / "run"))


def test_a_run_without_a_checkpoint_is_not_resumed(refused_resume, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step_00000001")
    shutil.rmtree(copy / "checkpoints" / "step_00000002")
    refused_resume(copy, ["trainer.max_steps=4"], str(copy), "its checkpoints are gone")


def test_a_run_of_truncated_checkpoints_is_not_resumed(refused_resume, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    states = [copy / "checkpoints" / f"step_0000000{step}" / "training_state.pt" for step in (1, 2)]
    for state in states:
        state.write_bytes(state.read_bytes()[:5000])
    refused_resume(
        copy, ["trainer.max_steps=4"], "none is whole", "step_00000002/training_state.pt: damaged"
    )


# ---- generate


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt="], ["prompt", "empty"]),
        ([], ["give either prompt=", "prompts=FILE"]),
        (["prompt=lamp", "prompts={texts}/good.txt"], ["give either prompt=", "prompts=FILE"]),
        (["prompt=" + "x" * 65], ["prompt", "65 tokens", "context of 64", "shorten"]),
        (["prompt=lamp", "decoding.top_k=258"], ["decoding", "top_k (258)", "257"]),
        (["prompt=lamp", "decoding.top_k=0"], ["decoding.top_k", "> 0", "got 0"]),
        (["prompt=lamp", "decoding.temperature=-1"], ["decoding.temperature", ">= 0", "-1"]),
        (["prompt=lamp", "decoding.temperature=nan"], ["decoding.temperature", "nan"]),
        (["prompt=lamp", "decoding.temperature=inf"], ["decoding.temperature", "inf"]),
        (["prompt=lamp", "decoding.top_p=0"], ["decoding.top_p", "> 0 and <= 1", "got 0"]),
        (["prompt=lamp", "decoding.top_p=1.5"], ["decoding.top_p", "> 0 and <= 1", "1.5"]),
        (["prompt=lamp", "decoding.top_p=nan"], ["decoding.top_p", "nan"]),
        (["prompt=lamp", "decoding.min_p=0"], ["decoding.min_p", "> 0 and <= 1", "got 0"]),
        (["prompt=lamp", "decoding.min_p=2"], ["decoding.min_p", "> 0 and <= 1", "got 2"]),
        (
            ["prompt=lamp", "decoding.repetition_penalty=0"],
            ["decoding.repetition_penalty", ">= 0.01", "got 0"],
        ),
        (
            ["prompt=lamp", "decoding.repetition_penalty=-1"],
            ["decoding.repetition_penalty", ">= 0.01", "-1"],
        ),
        (
            ["prompt=lamp", "decoding=beam", "decoding.n_beams=0"],
            ["decoding.n_beams", "> 0", "got 0"],
        ),
        (
            ["prompt=lamp", "decoding=beam", "decoding.n_beams=2.5"],
            ["decoding.n_beams", "int", "2.5"],
        ),
        (
            ["prompt=lamp", "decoding=beam", "decoding.n_beams=129"],
            ["decoding", "n_beams (129)", "257"],
        ),
        (
            ["prompt=lamp", "decoding=beam", "decoding.length_penalty=1e3"],
            ["decoding.length_penalty", "<= 10", "1000"],
        ),
        (
            ["prompt=lamp", "decoding=beam", "decoding.length_penalty=nan"],
            ["decoding.length_penalty", "nan"],
        ),
        (
            ["prompt=lamp", "decoding=beam", "num_samples=5"],
            ["decoding", "num_samples (5)", "n_beams (4)"],
        ),
        (
            ["prompt=lamp", "decoding=greedy", "num_samples=2"],
            ["decoding", "num_samples (2)", "decoding=sample"],
        ),
        (["prompt=lamp", "decoding=greedy", "decoding.temperature=1"], ["decoding.temperature"]),
        (["prompts={texts}/empty.txt"], ["prompts", "empty.txt", "no prompt in it"]),
        (["prompts={texts}/blank.txt"], ["prompts", "blank.txt", "no prompt in it"]),
        (["prompts={texts}/nowhere.txt"], ["prompts", "nowhere.txt", "no such file"]),
        (["prompts={texts}/latin1.txt"], ["prompts", "latin1.txt", "not UTF-8", "iconv"]),
        (["prompts={texts}"], ["prompts", "cannot be read"]),
        (["prompts={texts}/good.txt"], ["prompt ", "2760 tokens", "context of 64", "shorten"]),
        (["prompts="], ["prompts", "non-empty str"]),
        (["prompts={texts}/special.txt"], ["<|endoftext|>", "special_tokens=true", "false"]),
        (["prompt=lamp<|endoftext|>"], ["<|endoftext|>", "special_tokens=true", "false"]),
        (["prompt=lamp", "special_tokens=3"], ["special_tokens", "bool", "3"]),
        (["prompt=", "special_tokens=true"], ["prompt", "empty"]),
        (["prompt=lamp", "stop="], ["stop", "non-empty str", "got ''"]),
        (["prompt=lamp", 'stop=["",END]'], ["stop", "non-empty str", "['', 'END']"]),
        (["prompt=lamp", "stream=true", "decoding=beam"], ["stream=true", "beam"]),
        (["prompt=lamp", "stream=true", "format=jsonl"], ["stream=true", "format=jsonl"]),
        (["prompt=lamp", "stream=2"], ["stream", "bool", "2"]),
        (["prompt=lamp", "format=csv"], ["format", "'text'", "'jsonl'", "'csv'"]),
        (["prompt=lamp", "logprobs=true"], ["logprobs=true", "format=jsonl"]),
        (["prompt=lamp", "batch_size=0"], ["batch_size", "> 0", "got 0"]),
        (["prompt=lamp", "prompt_lookup=1"], ["prompt_lookup", ">= 2", "got 1"]),
        (["prompt=lamp", "prompt_lookup=4", "decoding=beam"], ["prompt_lookup", "beam"]),
        (["prompt=lamp", "lookup_text={texts}/good.txt"], ["lookup_text", "prompt_lookup=7"]),
        (
            ["prompt=lamp", "prompt_lookup=4", "lookup_text=nowhere.txt"],
            ["lookup_text", "nowhere.txt", "no such file"],
        ),
        (
            ["prompt=lamp", "prompt_lookup=4", "lookup_text={texts}/latin1.txt"],
            ["lookup_text", "not UTF-8"],
        ),
        (["prompt=lamp", "precision=int8", "accelerator=gpu"], ["accelerator=cpu"]),
        (
            ["prompt=lamp", "precision=int4"],
            ["precision", "'32-true'", "'bf16-true'", "'int8'", "'int4'"],
        ),
        (["prompt=lamp", "decoding=beem"], ["decoding=beem", "greedy", "sample"]),
        (
            ["prompt=lamp", "decoding.top_kk=3"],
            ["decoding.top_kk", "did you mean 'decoding.top_k'"],
        ),
        (["prompt=lamp", "top_k=3"], ["top_k", "did you mean 'decoding.top_k'"]),
        (["prompt=lamp", "max_new_tokens=0"], ["max_new_tokens", "> 0", "got 0"]),
        (["prompt=lamp", "max_new_tokens=-1"], ["max_new_tokens", "> 0", "-1"]),
        (["prompt=lamp", "num_samples=0"], ["num_samples", "> 0", "got 0"]),
        (["prompt=lamp", "seed=-1"], ["seed", ">= 0", "-1"]),
        (["prompt=lamp", "accelerator=toaster"], ["accelerator (toaster)", "accelerator=cpu"]),
        (["prompt=lamp", "accelerator=cuda:99"], ["accelerator (cuda:99)", "accelerator=cpu"]),
        (["prompt=lamp", "accelerator=meta"], ["accelerator (meta)", "accelerator=cpu"]),
        (["prompt=lamp", "accelerator=3"], ["accelerator", "str", "3"]),
        (["prompt=lamp", "checkpoint=3"], ["checkpoint (3)", "no such file or run folder"]),
        (["checkpoint=nope"], ["checkpoint (nope)", "no such file or run folder"]),
        (["prompt=lamp", "checkpoint=hf:./nix"], ["checkpoint (hf:./nix): no such folder"]),
        (
            ["prompt=lamp", "checkpoint=hf:{texts}/good.txt"],
            ["good.txt): a file; hf: takes the folder"],
        ),
        (["prompt=lamp", "checkpoint=hf:."], ["checkpoint (hf:.): a folder without config.json"]),
        (["promt=lamp"], ["promt", "did you mean 'prompt'"]),
        (["prompt"], ["'prompt'", "key=value"]),
    ],
    ids=lambda value: " ".join(value)[:60] or "no prompt",
)
@pytest.mark.one_in(3)
def test_a_generation_that_cannot_be_made_is_refused(refused_call, run, texts, arguments, words):
    refused_call(
        ["generate", f"checkpoint={run}", *(a.replace("{texts}", str(texts)) for a in arguments)],
        *words,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["prompt="],
        ["prompt=lamp", "decoding.top_k=258"],
        ["prompt=lamp", "logprobs=true"],
        ["prompts=none"],
    ],
)
def test_a_command_line_that_cannot_be_generated_from_is_refused(refused, run, arguments):
    refused(["generate", f"checkpoint={run}", *arguments])


def test_a_generation_without_a_checkpoint_is_refused(refused):
    refused(["generate", "prompt=lamp"], "checkpoint", "a value is needed")


PROMPTS = [
    "The lamp, the keeper, the sea",
    "'single' \"double\" `back`",
    '"',
    "'",
    "${x}",
    "${oc.env:HOME}",
    "\\${x} \\\\${x}",
    "$ { } $x $(ls)",
    "[1, 2",
    "{a: 1}",
    "(a)|b;c&d",
    "a=b=c",
    "= 3",
    "\\",
    "\\\\ end \\",
    'ends in quote\\"',
    "line\nline\n\nline",
    "\ttab\r\n",
    "null",
    "true",
    "1e-3",
    "010",
    "1:30",
    "~x +y ++z",
    "# no comment",
    "-- -m --help",
    "choice(1,2) range(3)",
    "  spaces  ",
    "é ü 灯 🏮",
    "@package: _global_",
    "???",
    "_target_: os.system",
    "<|endoftext|>",
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.one_in(3)
def test_a_prompt_is_taken_as_it_is_typed(prompt):
    from firstlight.commands.generate import generate
    from firstlight.config import build, check_config

    words = ["checkpoint=run", f"prompt={prompt}", "decoding=greedy"]
    config = compose_config("generate", parse_arguments("generate", words).overrides)
    assert build(check_config(config, generate))["prompt"] == prompt


@pytest.mark.parametrize(
    "prompt", ["The lamp, 'the' \"sea\" \\", "[a=b, {c: (d", "${x}", "line\n\n\tline", "é 灯 🏮"]
)
@pytest.mark.one_in(3)
def test_a_text_begins_with_its_prompt(capsys, run, place, prompt):
    arguments = [
        f"checkpoint={run}",
        f"prompt={prompt}",
        "decoding=greedy",
        "max_new_tokens=1",
        "accelerator=cpu",
    ]
    assert main(["generate", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(prompt)
    assert err == ""
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("prompt", ["${x}, [a", 'it\'s "so" = \\'])
def test_the_prompt_of_the_samples_is_taken_as_it_is_typed(texts, place, prompt):
    overrides = [
        f"callbacks.sample_generation.prompt={prompt}",
        "trainer.max_steps=2",
        "output_dir=here",
    ]
    assert main(tiny(texts, "~callbacks.plots", "~callbacks.throughput", *overrides)) == 0
    mark, _, text = (place / "here" / "samples.txt").read_text().partition("\n")
    assert mark.startswith("--- step 0; longest copy ") and text.startswith(prompt)


# ---- evaluate


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["split=test"], ["no test split", "data.test_ratio=0.1"]),
        (["split=nonsense"], ["split", "'train'", "'val'", "'test'", "'nonsense'"]),
        (["accelerator=toaster"], ["accelerator (toaster)", "accelerator=cpu"]),
        (["accelerator=tpu"], ["accelerator (tpu)", "accelerator=cpu"]),
        (["precision=bf17"], ["precision", "bf17", "32-true"]),
        (["spilt=val"], ["spilt", "did you mean 'split'"]),
        (["data=text"], ["data.path", "a value is needed"]),
        (["data=text", "data.path=nowhere.txt"], ["data", "nowhere.txt", "no such file"]),
        (
            ["data=text", "data.path=nowhere.txt", "+data.foo=1"],
            ["data.foo", "TextData has no 'foo'"],
        ),
        (["data=texts"], ["data=texts", "did you mean 'text'"]),
        (["checkpoint=3"], ["checkpoint (3)", "no such file or run folder"]),
        (["checkpoint=3", "limit=3"], ["checkpoint (3)", "no such file or run folder"]),
        (["data=3"], ["data"]),
        (["tasks=[]"], ["tasks", "non-empty"]),
        (["limit=3"], ["limit", "tasks=[...]"]),
        (["num_fewshot=1"], ["num_fewshot", "tasks=[...]"]),
        (["tasks=[lambada_openai]", "split=all"], ["tasks bring their own data"]),
        (["tasks=lambada_openai", "data=pydoc"], ["tasks bring their own data"]),
    ],
    ids=" ".join,
)
@pytest.mark.one_in(3)
def test_an_evaluation_that_cannot_be_made_is_refused(refused_call, run, arguments, words):
    if "checkpoint=3" not in arguments:
        arguments = [f"checkpoint={run}", *arguments]
    refused_call(["evaluate", *arguments], *words)


@pytest.mark.parametrize("file", ["short.txt", "empty.txt", "latin1.txt", "one_window.txt"])
def test_an_evaluation_of_a_text_that_will_not_do_is_refused(refused_call, run, texts, file):
    refused_call(
        ["evaluate", f"checkpoint={run}", "data=text", f"data.path={texts / file}"], "data"
    )


def test_an_evaluation_of_another_text_works_and_writes_nothing(capsys, run, texts, place):
    import json

    text = f"data.path={texts / 'special.txt'}"
    arguments = ["format=json", "data=text", text, "accelerator=cpu"]
    assert main(["evaluate", f"checkpoint={run}", *arguments]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        "val/loss",
        "val/perplexity",
        "val/bits_per_byte",
        "val/tokens",
    }
    assert (
        main(["evaluate", f"checkpoint={run}", *arguments, "split=test", "data.test_ratio=0.05"])
        == 0
    )
    assert "test/loss" in json.loads(capsys.readouterr().out)
    assert list(place.iterdir()) == []


def test_tasks_without_lm_eval_are_refused(refused_call, run, monkeypatch):
    monkeypatch.setattr("firstlight.commands.evaluate.find_spec", lambda _name: None)
    refused_call(["evaluate", f"checkpoint={run}", "tasks=lambada_openai"], with_extra("lm-eval"))


# ---- what is no mistake


@pytest.mark.parametrize("choice", ["[checkpoint]", "[]"])
def test_callbacks_can_be_chosen(texts, no_training, choice):
    with pytest.raises(AssertionError, match="training began"):
        main(tiny(texts, f"callbacks={choice}"))


def test_callbacks_can_be_removed(texts, place):
    overrides = [
        "~callbacks.plots",
        "~callbacks.sample_generation",
        "~callbacks.throughput",
        "output_dir=here",
    ]
    assert main(tiny(texts, "logger=[csv]", *overrides)) == 0
    written = {file.name for file in (place / "here").iterdir()}
    assert "loss.png" not in written and "samples.txt" not in written
    assert {"metrics.csv", "checkpoints", "model.safetensors"} <= written
