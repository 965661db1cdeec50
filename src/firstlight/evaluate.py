"""`firstlight evaluate`: loss, perplexity and bits per byte of a checkpoint on a split of a text."""

import json
from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from firstlight.config import blame, build, check_config, check_node
from firstlight.data.datamodule import TextDataModule
from firstlight.data.order import SeededOrder
from firstlight.errors import ConfigError
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.trainer import refusal
from firstlight.weights.checkpoint import load_checkpoint
from firstlight.weights.find import find_checkpoint


def evaluate(
    *,
    checkpoint: str,
    split: Literal["train", "val", "test"] = "val",
    accelerator: str = "auto",
    precision: str = "32-true",
    data: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Measure a checkpoint on every window of `split`; `data` is a section of the config, null the checkpoint's own.

    Raises:
        ConfigError: no such checkpoint, split, text or device.
    """
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    model, tokenizer = loaded.build_model(), loaded.build_tokenizer()
    section = data or loaded.config.get("data")
    if section is None:
        raise ConfigError(f"checkpoint ({loaded.path}) does not say what it was trained on; choose one with data=...")
    section = {**section, "context_length": model.context_length, "eval_batches": None}
    check_node("data", section)
    make: Callable[..., TextDataModule] = build({"data": section})["data"]
    try:
        text = make(tokenizer=tokenizer, order=SeededOrder(seed=0))
        text.setup()
        if split not in text.windows:
            raise ValueError("there is no test split; give data.test_ratio=0.1")
        trainer = pl.Trainer(
            accelerator=accelerator,
            precision=precision,  # type: ignore[arg-type]
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
    except (ValueError, TypeError, OSError) as error:
        raise blame("data", error) from error
    except Exception as error:
        if words := refusal(error):
            raise ConfigError(f"accelerator ({accelerator}): {words}") from error
        raise
    module = EvaluationModule(model, tokenizer.byte_lengths)
    module.splits = [split]
    if split == "train":
        text.eval_batches = len(range(0, len(text.windows["train"]), text.batch_size))
    trainer.validate(module, dataloaders=text.eval_dataloader(split), verbose=False)
    return module.metrics


def main(config: DictConfig) -> float:
    """Print the metrics as one JSON object; return the loss."""
    if OmegaConf.select(config, "data") is None:
        OmegaConf.update(config, "data", None, force_add=True)
    plain = check_config(config, evaluate)
    metrics = evaluate(**plain)
    print(json.dumps(metrics))
    return metrics[f"{plain['split']}/loss"]
