"""A run that starts from given weights, and what comes with them."""

from dataclasses import replace
from typing import Any

from firstlight.config import blame, build, check_node
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError
from firstlight.model.base import LanguageModel
from firstlight.weights.checkpoint import Checkpoint, load_weights

ADOPTED = ("vocab_size", "qkv_bias")
"""Settings of the model that follow from the weights and the tokenizer: they need not be given."""


def started_config(config: dict[str, Any], start: Checkpoint) -> dict[str, Any]:
    """`config` with the tokenizer of `start`, whose ids its weights are for, and a model that they fit.

    Raises:
        ConfigError: the model that `config` describes is another one.
    """
    theirs = check_node("model", start.config.get("model"), LanguageModel)
    tokenizer = check_node("tokenizer", start.config.get("tokenizer"), Tokenizer)
    ours = {**config["model"], **{key: theirs[key] for key in ADOPTED if key in theirs}}
    if ours["_target_"] != theirs["_target_"]:
        raise ConfigError(f"init_from: {start.path} holds a {theirs['_target_']}, the model is a {ours['_target_']}")
    free = build(ours).func.free_settings.union(start.guessed)
    other = {k: v for k, v in theirs.items() if not k.startswith("_") and k not in free and ours.get(k) != v}
    if other:
        wanted = " ".join(f"model.{key}={value}" for key, value in other.items())
        raise ConfigError(f"init_from: the weights in {start.path} are those of another model: they need {wanted}")
    return {**config, "model": ours, "tokenizer": tokenizer}


def load_start(model: LanguageModel, start: Checkpoint) -> None:
    """Put the weights of `start` into `model`, which may differ from theirs in its `free_settings`.

    Raises:
        ConfigError: they do not fit.
    """
    try:
        weights = model.adapted(start.state_dict)
    except ValueError as error:
        raise blame("model", error) from error
    load_weights(model, replace(start, state_dict=weights))
