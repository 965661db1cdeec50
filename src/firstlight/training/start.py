"""A run that starts from given weights, and what comes with them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.checkpoints.checkpoint import Checkpoint, load_weights
from firstlight.config import blame, check_node, made_by, takes, to_plain
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError
from firstlight.interpolation import as_data
from firstlight.model.base import LanguageModel
from firstlight.model.same import TARGET, WITHOUT
from firstlight.overrides import key_of
from firstlight.runs.places import data_with_files, start_with_place
from firstlight.sources import find_checkpoint, read_config


def take_same_model(config: DictConfig) -> None:
    """Put the model of `init_from`, and what the section gives, into a config with model=same.

    Raises:
        ConfigError: `init_from` is not given, what it names holds no model, or an interpolation of
            the config cannot be resolved.
    """
    # An interpolation that cannot be resolved is told by the check of the whole config.
    target = OmegaConf.select(config, "model._target_", throw_on_resolution_failure=False)
    if target != TARGET:
        return
    plain = to_plain(config)
    source = plain.get("init_from")
    if not isinstance(source, str):
        raise ConfigError(f"model: {WITHOUT}")
    found = find_checkpoint(start_with_place(source, None), key="init_from")
    theirs = check_node(
        f"init_from ({found}): model", read_config(found).get("model"), LanguageModel
    )
    given = {
        key: value
        for key, value in plain["model"].items()
        if not key.startswith("_") and value is not None
    }
    if "dropout" not in theirs and takes(theirs, "dropout", "fast"):
        # The default of conf/model/*.yaml, which a published model's config does not have.
        given.setdefault("dropout", "fast")
    with open_dict(config):
        config.model = as_data(theirs | {"_partial_": True}) | given


def started_config(
    config: dict[str, Any], start: Checkpoint, overrides: Sequence[str]
) -> dict[str, Any]:
    """`config` with the tokenizer of `start` and a model that its weights fit.

    Raises:
        ConfigError: `config` describes a different model, an override asks for what cannot be, or
            the weights are not even those of the model that they come with.
    """
    # First of all: if the weights do not fit their own config, every other message would mislead.
    start.build_model()
    theirs = check_node(
        f"init_from ({start.path}): model", start.config.get("model"), LanguageModel
    )
    tokenizer = check_node(
        f"init_from ({start.path}): tokenizer", start.config.get("tokenizer"), Tokenizer
    )
    if config["model"]["_target_"] != theirs["_target_"]:
        wanted = config["model"]["_target_"]
        raise ConfigError(
            f"init_from: {start.path} holds a {theirs['_target_']}, the model is a {wanted};"
            " model=same takes what is there"
        )
    kind: type[LanguageModel] = made_by(config["model"])
    ours = config["model"] | {key: theirs[key] for key in kind.adopted_settings if key in theirs}
    free = kind.free_settings.union(start.guessed)
    other = {
        k: v
        for k, v in theirs.items()
        if not k.startswith("_") and k not in free and ours.get(k) != v
    }
    if other:
        wanted = " ".join(f"model.{key}={value}" for key, value in other.items())
        raise ConfigError(
            f"init_from: the weights in {start.path} are those of another model: they need"
            f" {wanted}; model=same takes them as they are"
        )
    # What the defaults of conf/ say may be replaced silently; what the user has typed may not.
    for override in overrides:
        section, _, key = key_of(override).partition(".")
        if section == "tokenizer" and config["tokenizer"] != tokenizer:
            raise ConfigError(
                f"{override}: the weights in {start.path} are for a tokenizer of their own; leave"
                " it out"
            )
        if section == "model" and config["model"].get(key) != ours.get(key):
            raise ConfigError(
                f"{override}: the weights in {start.path} are for model.{key}={ours.get(key)}"
            )
    return {**config, "model": ours, "tokenizer": tokenizer}


def config_of_data(
    config: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], Tokenizer] | None:
    """`config` with the tokenizer that comes with its data, and that tokenizer; None if none does.

    Raises:
        ConfigError: it cannot be read, or an override asks for another one.
    """
    kind = made_by(config["data"])
    if not issubclass(kind, TokenDataModule):  # a function that does not say what it makes
        return None
    try:
        stored = kind.stored_tokenizer(data_with_files(config["data"], None))
    except ValueError as error:
        raise blame("data", error) from error
    if stored is None:
        return None
    section, tokenizer = stored
    section = check_node("data: its tokenizer", section, Tokenizer)
    given = {key_of(override): override for override in overrides}
    for key, override in given.items():
        if key.partition(".")[0] == "tokenizer" and config["tokenizer"] != section:
            raise ConfigError(
                f"{override}: the data was prepared with the tokenizer {tokenizer.encoding.name},"
                f" vocab_size={tokenizer.vocab_size}; leave it out (model.vocab_size may be larger)"
            )
    model = config["model"]
    if "vocab_size" in model and "model.vocab_size" not in given:
        model = model | {"vocab_size": tokenizer.vocab_size}
    return {**config, "tokenizer": section, "model": model}, tokenizer


def adopted(config: dict[str, Any], started: dict[str, Any], start: Checkpoint) -> str:
    """What `started_config` has changed, in words."""
    was, now = config["model"], started["model"]
    changes = [
        f"model.{key} {was.get(key)} -> {now[key]}" for key in now if was.get(key) != now[key]
    ]
    return "; ".join([f"the tokenizer is that of {start.path}", *changes])


def load_start(model: LanguageModel, start: Checkpoint) -> None:
    """Give `model`, built on the meta device, the weights of `start`.

    They may differ in its `free_settings`.

    Raises:
        ConfigError: they do not fit.
    """
    try:
        weights = model.adapted(start.state_dict)
    except ValueError as error:
        raise blame("model", error) from error
    load_weights(model, replace(start, state_dict=weights), assign=True)
    # Memory of its own for each, neither a file's nor another's.
    for tensor in (*model.parameters(), *model.buffers()):
        own = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        # To .data: the parameter stays the object that modules, and tied names, refer to.
        tensor.data = own.copy_(tensor.data)
