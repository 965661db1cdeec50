"""`firstlight evaluate`: measure a checkpoint on a text, or on tasks of lm-eval."""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

import lightning.pytorch as pl
from omegaconf import DictConfig
from pydantic import Field

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.commands.text_section import prepare_text_section
from firstlight.config import BatchSize, NonEmpty, Steps, build, check_config
from firstlight.errors import ConfigError, printable
from firstlight.metrics.base import Metric, MetricGroup
from firstlight.metrics.measured import metrics_of
from firstlight.model.base import LanguageModel
from firstlight.model.int8 import quantize_int8
from firstlight.output import as_json, note, write
from firstlight.packages import with_extra
from firstlight.sources import check_named, find_checkpoint, load_checkpoint
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.measuring import evaluation_trainer, text_of
from firstlight.training.same_text import OtherTextError


def evaluate(
    *,
    checkpoint: str,
    split: Literal["train", "val", "test", "all"] = "val",
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "int8"] = "32-true",
    data: dict[str, Any] | None = None,
    metrics: dict[str, MetricGroup] | None = None,
    tasks: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] | None = None,
    num_fewshot: Annotated[int, Field(ge=0, le=1024)] | None = None,
    limit: Steps | None = None,
    batch_size: BatchSize = 8,
    format: Literal["text", "json"] = "text",
) -> dict[str, float]:
    """Measure a checkpoint on all of `split`, or on `tasks`; return the metrics by name.

    A text is split as in training, so `split` is a part of it; "all" is the whole text. `data` is a
    section of the config, None the checkpoint's own. The metrics are those of the checkpoint's
    config, and `metrics`.

    With `tasks`, which are lm-eval's, the model is given `batch_size` examples at a time, and the
    keys are `task/metric`.

    Raises:
        ConfigError: no such checkpoint, split, text, task or device; settings that contradict each
            other.
    """
    check_named(checkpoint)
    names = [tasks] if isinstance(tasks, str) else tasks
    _check_settings(names, split, data, metrics, num_fewshot, limit)
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    trainer = evaluation_trainer(accelerator, precision)
    model = loaded.build_model()
    if precision == "int8":
        # After loading: checkpoints hold floating-point weights.
        model = quantize_int8(model.fused())
    if names is None:
        return _on_text(loaded, model, trainer, split, data, metrics_of(loaded.config, metrics))
    # Imported late: the extra lm-eval may not be installed.
    from firstlight.lm_eval.adapter import HarnessLM
    from firstlight.lm_eval.tasks import run_tasks

    # lm-eval calls the model itself: put it where, and as, the Trainer would.
    model = model.to(trainer.strategy.root_device)
    trainer.precision_plugin.convert_module(model)
    lm = HarnessLM(model, loaded.build_tokenizer(), batch_size=batch_size)
    with trainer.precision_plugin.forward_context():
        return run_tasks(lm, names, num_fewshot=num_fewshot, limit=limit)


def _check_settings(
    tasks: list[str] | None,
    split: str,
    data: dict[str, Any] | None,
    metrics: dict[str, MetricGroup] | None,
    num_fewshot: int | None,
    limit: int | None,
) -> None:
    """Refuse settings that contradict each other, before anything is loaded.

    Raises:
        ConfigError: they do.
    """
    if tasks is None:
        if num_fewshot is not None or limit is not None:
            raise ConfigError("num_fewshot and limit are about tasks: give tasks=[...] with them")
        return
    if data is not None or split != "val":
        raise ConfigError("tasks bring their own data: give tasks, or data and split, not both")
    if metrics:
        raise ConfigError("tasks have metrics of their own: give tasks, or metrics, not both")
    if find_spec("lm_eval") is None:
        raise ConfigError(f"tasks need lm-eval: {with_extra('lm-eval')}")


def _on_text(
    loaded: Checkpoint,
    model: LanguageModel,
    trainer: pl.Trainer,
    split: str,
    data: dict[str, Any] | None,
    metrics: list[Metric],
) -> dict[str, float]:
    """Measure `metrics` on a split of a text; also count its tokens.

    Raises:
        ConfigError: no such text, or not the text of the checkpoint.
    """
    try:
        text = text_of(loaded, model, split, data)
    except OtherTextError as error:
        raise ConfigError(
            f"{error}; to measure on another text, give data=text data.path=..."
        ) from error
    for oddity in text.notes:
        note(oddity)
    module = EvaluationModule(model, text.tokenizer.byte_lengths, metrics)
    module.splits = [split]
    trainer.validate(module, dataloaders=text.eval_batches_of(split), verbose=False)
    if text.worker_failure is not None:
        note(f"{text.worker_failure}; nothing of the text was left out")
    left_out = text.eval_windows(split).n_rest
    if left_out > 0 and not text.eval_last_window:
        n_predictions = text.windows[split].n_predictions
        note(
            f"the last {left_out:,} of {n_predictions:,} predictions are left out: they do not fill"
            f" a window of {text.context_length} tokens, and data.eval_last_window is false in the"
            " config of this run (name its text with data=... to score them too)"
        )
    return {**module.metrics, f"{split}/tokens": text.n_scored(split)}


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `evaluate`.

    Raises:
        ConfigError: it is not valid.
    """
    prepare_text_section(config)
    return check_config(config, evaluate)


def measured(plain: dict[str, Any]) -> dict[str, float]:
    """What `arguments` ask for.

    Raises:
        ConfigError: see `evaluate`.
    """
    return evaluate(**plain | {"metrics": build(plain["metrics"], "metrics")})


def main(config: DictConfig) -> None:
    """Print the metrics, as a table or as one JSON object."""
    plain = arguments(config)
    told = measured(plain)
    write(as_json(told) + "\n" if plain["format"] == "json" else as_text(told))


def as_text(told: dict[str, float]) -> str:
    """Write metrics as a table: their names, and their values below each other."""
    rows: list[tuple[str, str]] = []
    for name, value in told.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
        rows.append((printable(name), shown))
    left, right = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "".join(f"{name:<{left}}  {value:>{right}}\n" for name, value in rows)
