"""Thousands of wrong, odd and right values for every key, on configs that are composed once.

Hydra's own composition takes a third of a second: whole command lines are in test_command_lines.py.
"""

import copy

import pytest
from fuzzing import TINY, Began, fuzz
from mutations import mutations, settings_of
from omegaconf import DictConfig, OmegaConf

from firstlight.cli import main
from firstlight.commands.evaluate import arguments as evaluation_arguments
from firstlight.commands.evaluate import evaluate
from firstlight.commands.export import export
from firstlight.commands.generate import generate
from firstlight.commands.train import arguments as training_arguments
from firstlight.compose.arguments import parse_arguments
from firstlight.compose.compose import compose_config
from firstlight.compose.explain import explained
from firstlight.compose.hydra_calls import parse_overrides
from firstlight.config import build, check_config
from firstlight.errors import ConfigError, message_lines
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # more workers than this computer has CPUs
    pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU"),
]
TRAININGS = {
    "default": ["scheduler.warmup_steps=1"],
    "learned vocabulary": [
        "tokenizer=bpe",
        "tokenizer.vocab_size=300",
        "scheduler=constant",
        "logger=[csv]",
    ],
    "book": ["order=book", "scheduler=constant", "callbacks=[book,early_stopping]"],
    "beam search": [
        "decoding@callbacks.sample_generation.decoding=beam",
        "scheduler.warmup_steps=0",
        "logger=[csv]",
    ],
}
GENERATIONS = {
    "sample": [],
    "greedy": ["decoding=greedy", "stream=true"],
    "beam": ["decoding=beam", "format=jsonl", "logprobs=true"],
}
CASES = pytest.mark.parametrize(
    "n", [60, pytest.param(200, marks=pytest.mark.long), pytest.param(2500, marks=pytest.mark.slow)]
)


def changed(config: DictConfig, verb: str, overrides: list[str]) -> DictConfig:
    """A copy of a composed config with `overrides`, as Hydra would have made it."""
    config = copy.deepcopy(config)
    with explained(verb, overrides):
        for override in parse_overrides(parse_arguments(verb, overrides).overrides):
            key = override.key_or_group
            if override.is_sweep_override():
                raise ConfigError(f"{key}: several values")
            if override.is_delete():
                parent, _, last = key.rpartition(".")
                OmegaConf.set_struct(config, False)
                if not isinstance(
                    node := OmegaConf.select(config, parent) if parent else config, DictConfig
                ):
                    raise ConfigError(f"{key}: no such key")
                node.pop(last, None)
            else:
                OmegaConf.update(config, key, override.value(), merge=False, force_add=True)
    return config


def fuzzed(verb, composed, call, n, place):
    """How `n` cases of a verb ended, which is sent to work by `call(config, overrides)`."""

    def run(overrides):
        try:
            call(changed(composed, verb, overrides), overrides)
        except ConfigError as error:
            return message_lines(error)
        except Began:
            return None
        return None

    fuzz(mutations(settings_of(composed)), run, n=n, place=place)


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    overrides = ["scheduler=constant", "logger=[]", "~callbacks.plots", "model.context_length=64"]
    assert main(["train", *TINY, *overrides, f"data.path={text}", f"output_dir={folder}"]) == 0
    return folder


@CASES
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_begins_or_is_refused(stops_at_work, place, text, name, n):
    def train(config, overrides):
        plain = training_arguments(config)
        fit(Experiment(**build(plain)), plain, overrides)

    composed = compose_config("train", [*TINY, f"data.path={text}", *TRAININGS[name]])
    fuzzed("train", composed, train, n, place)


@CASES
@pytest.mark.parametrize("name", GENERATIONS)
def test_a_generation_begins_or_is_refused(stops_at_work, place, run, name, n):
    def generate_(config, overrides):
        next(generate(**build(check_config(config, generate))))

    composed = compose_config(
        "generate", [f"checkpoint={run}", "prompt=lamp", "accelerator=cpu", *GENERATIONS[name]]
    )
    fuzzed("generate", composed, generate_, n // 4, place)


@CASES
def test_an_evaluation_begins_or_is_refused(stops_at_work, place, run, text, n):
    composed = compose_config(
        "evaluate", [f"checkpoint={run}", "data=text", f"data.path={text}", "accelerator=cpu"]
    )
    fuzzed(
        "evaluate",
        composed,
        lambda config, _: evaluate(**evaluation_arguments(config)),
        n // 4,
        place,
    )


@CASES
def test_an_export_is_written_or_refused(place, run, n):
    composed = compose_config("export", [f"checkpoint={run}", "out=here"])
    fuzzed(
        "export", composed, lambda config, _: export(**check_config(config, export)), n // 10, place
    )
