"""A checkpoint, and what it takes to measure it: its text, cut as in training, and a trainer that only evaluates."""

from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException

from firstlight.config import blame, build, check_node
from firstlight.data.datamodule import TextDataModule
from firstlight.data.order import SeededOrder
from firstlight.errors import ConfigError, one_line
from firstlight.interpolation import as_values, from_environment, given_again
from firstlight.model.base import LanguageModel
from firstlight.training.cluster import OwnProcesses
from firstlight.training.trainer import quiet, refusal
from firstlight.weights.checkpoint import Checkpoint


def text_of(loaded: Checkpoint, model: LanguageModel, split: str, data: dict[str, Any] | None = None) -> TextDataModule:
    """The text to measure `model` on, in windows: that of the section `data`, or null its own; of "all" uncut.

    Raises:
        ConfigError: it cannot be had, has no such split, or its windows are too long.
    """
    section = {"context_length": model.context_length, **(data or own_data(loaded))}
    check_node("data", section, TextDataModule)
    try:
        text: TextDataModule = build(section, "data")(tokenizer=loaded.build_tokenizer(), order=SeededOrder(seed=0))
        text.setup("all" if split == "all" else None)
        if split not in text.windows:
            raise ValueError("there is no test split: train with data.test_ratio=0.1, or give it with data=...")
        if text.context_length > model.context_length:
            raise ValueError(f"context_length must not be above the model's ({model.context_length})")
    except (ValueError, TypeError, OSError) as error:
        raise blame("data", error) from error
    return text


def own_data(loaded: Checkpoint) -> dict[str, Any]:
    """The data section of the config it was trained with."""
    section = loaded.config.get("data")
    if not isinstance(section, dict):
        raise ConfigError(f"checkpoint ({loaded.path}) does not say what it was trained on; choose one with data=...")
    for key, text in from_environment(section, "data."):
        raise ConfigError(
            f"{key}: came from the environment ({text}) when {loaded.path} was trained; choose the text with data=..., "
            f"e.g. data=text {given_again('data.path', text)}"
        )
    return as_values(section)


def evaluation_trainer(accelerator: str, precision: str) -> pl.Trainer:
    """One device, and nothing but an evaluation on it.

    Raises:
        ConfigError: there is no such device, or it lacks the precision.
    """
    quiet()
    accelerator = "cpu" if precision == "int8" and accelerator == "auto" else accelerator
    if precision == "int8" and accelerator != "cpu":
        raise ConfigError(f"precision=int8 is for the CPU, not {accelerator}: give accelerator=cpu")
    try:
        return pl.Trainer(
            accelerator=accelerator,
            precision="32-true" if precision == "int8" else precision,  # type: ignore[arg-type]
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            plugins=[OwnProcesses()],
        )
    except (ValueError, RuntimeError, MisconfigurationException, ImportError) as error:
        words = refusal(error, "accelerator") or one_line(error)
        raise ConfigError(f"accelerator ({accelerator}), precision ({precision}): {words}") from error
