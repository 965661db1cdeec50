"""`firstlight evaluate`: loss, perplexity and bits per byte of a checkpoint on a split of a text."""

import json
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.config import blame, build, check_config, check_node
from firstlight.data.datamodule import TextDataModule
from firstlight.data.order import SeededOrder
from firstlight.errors import ConfigError, one_line
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.trainer import quiet, refusal
from firstlight.weights.checkpoint import load_checkpoint
from firstlight.weights.find import find_checkpoint


def evaluate(
    *,
    checkpoint: str,
    split: Literal["train", "val", "test", "all"] = "val",
    accelerator: str = "auto",
    precision: str = "32-true",
    data: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Measure a checkpoint on every window of `split`; `data` is a section of the config, null the checkpoint's own.

    A text is split as in training, so `split` is a part of it; "all" is the whole text.

    Raises:
        ConfigError: no such checkpoint, split, text or device.
    """
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    model, tokenizer = loaded.build_model(), loaded.build_tokenizer()
    section = data or loaded.config.get("data")
    if section is None:
        raise ConfigError(f"checkpoint ({loaded.path}) does not say what it was trained on; choose one with data=...")
    section = {"context_length": model.context_length, **section}
    check_node("data", section, TextDataModule)
    try:
        text = build(section, "data")(tokenizer=tokenizer, order=SeededOrder(seed=0))
        text.setup("all" if split == "all" else None)
        if split not in text.windows:
            raise ValueError("there is no test split: train with data.test_ratio=0.1, or give it with data=...")
        if text.context_length > model.context_length:
            raise ValueError(f"context_length must not be above the model's ({model.context_length})")
    except (ValueError, TypeError, OSError) as error:
        raise blame("data", error) from error
    trainer = _trainer(accelerator, precision)
    module = EvaluationModule(model, tokenizer.byte_lengths)
    module.splits = [split]
    trainer.validate(module, dataloaders=text.eval_dataloader(split), verbose=False)
    return {**module.metrics, f"{split}/tokens": len(text.windows[split]) * text.context_length}


def _trainer(accelerator: str, precision: str) -> pl.Trainer:
    quiet()
    try:
        return pl.Trainer(
            accelerator=accelerator,
            precision=precision,  # type: ignore[arg-type]
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException, ImportError) as error:
        words = refusal(error, "accelerator") or one_line(error)
        raise ConfigError(f"accelerator ({accelerator}), precision ({precision}): {words}") from error


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as arguments of `evaluate`; without a data section it is the checkpoint's.

    Raises:
        ConfigError: it is not valid.
    """
    with open_dict(config):
        section = config.setdefault("data", None)
        if section is not None and OmegaConf.is_interpolation(section, "context_length"):
            del section["context_length"]  # the model's, which only the checkpoint knows
    return check_config(config, evaluate)


def main(config: DictConfig) -> float:
    """Print the metrics as one JSON object; return the loss."""
    plain = arguments(config)
    metrics = evaluate(**plain)
    print(json.dumps(metrics))
    return metrics[f"{plain['split']}/loss"]
