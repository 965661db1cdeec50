"""The weights of every run on the windows of the validation split: the sums of a metric, of each window."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from firstlight.compare.groups import Group
from firstlight.compare.runs import Run
from firstlight.compare.settings import Settings
from firstlight.compare.statistics import Sample
from firstlight.errors import ConfigError
from firstlight.metrics.base import Mean, Metric
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.measuring import evaluation_trainer, text_of

Floats = NDArray[np.float64]
AT_ONCE = 4096
"""Tokens that go through a model at once."""


@dataclass(frozen=True)
class Ground:
    """What a run is judged on: a validation text, how it becomes tokens, and how those are cut."""

    text: str
    tokenizer: str
    context_length: int


@dataclass(frozen=True)
class Measured:
    """Of each window what the metric adds up, nats if it is the loss, and what that is divided by: (windows,) each."""

    nats: Floats
    units: Floats
    ground: Ground


def measured_as(run: Run, settings: Settings) -> Mean | None:
    """The metric, where the weights are measured in it window by window; None: what the runs logged is taken.

    Raises:
        ConfigError: the best weights are to be measured in a metric that is no mean.
    """
    metric = run.metric(settings.metric)
    if settings.windows > 0 and settings.metric.startswith("val/") and isinstance(metric, Mean):
        return metric
    if settings.weights == "best":
        raise ConfigError(f"weights=best: {settings.metric} is not measured with weights; it must be a mean over val/")
    return None


def scores_last_window(run: Run) -> bool:
    """Does the run's own validation loss count the last, shorter window?"""
    return bool((run.config.get("data") or {}).get("eval_last_window", False))


def measure(run: Run, metric: Mean, settings: Settings, *, last_window: bool) -> Measured:
    """Evaluate the weights of a run, in float32, on windows that are spread evenly over its validation split.

    With `last_window` the shorter one at its end is among them, where all others are.

    Raises:
        ConfigError: it has no weights, or its text cannot be had any more.
    """
    checkpoint = find_checkpoint(str(run.folder), best=settings.weights == "best", key="runs")
    loaded = load_checkpoint(checkpoint)
    model = loaded.build_model()
    try:
        text = text_of(loaded, model, "val", settings.data)
    except ConfigError as error:
        raise ConfigError(f"{run.name}: {error}; without its text: windows=0") from error
    windows, tokenizer = text.windows["val"], text.tokenizer
    device = evaluation_trainer(settings.accelerator, "32-true").strategy.root_device
    module = EvaluationModule(model, tokenizer.byte_lengths).to(device).eval()
    chosen = torch.linspace(0, len(windows) - 1, min(settings.windows, len(windows)), dtype=torch.float64).long()
    batches = list(chosen.split(max(AT_ONCE // text.context_length, 1)))
    if last_window and len(chosen) == len(windows) and windows.n_rest > 0:
        batches.append(windows.rest_index)
    sums: list[list[float]] = []
    with torch.inference_mode():
        for index in batches:
            inputs, targets = (part.to(device) for part in windows[index])  # (B, T) each
            sums += [metric.sums(window) for window in module.scored((inputs, targets)).split(targets.shape[1])]
    factor = metric.value([1.0, 1.0])  # of bits per byte: bits in a nat
    assert factor is not None
    totals, counts = np.array(sums).T  # (windows,) each
    ground = Ground(
        _digest(tokenizer.decode(text.ids["val"].tolist())),
        _digest(json.dumps(loaded.tokenizer or loaded.config.get("tokenizer"), default=str)),
        text.context_length,
    )
    return Measured(totals, counts / factor, ground)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def configured_ground(run: Run) -> Ground:
    """What a run is judged on, as far as its config tells."""
    data = run.config.get("data") or {}
    of_the_text = {k: v for k, v in data.items() if k in ("_target_", "path", "folder", "train_ratio", "test_ratio")}
    return Ground(
        json.dumps(of_the_text, sort_keys=True, default=str),
        json.dumps(run.config.get("tokenizer"), sort_keys=True, default=str),
        int(data.get("context_length") or 0),
    )


def check_grounds(runs: list[Run], grounds: list[Ground], column: str, metric: Metric | None) -> list[str]:
    """What makes a comparison of runs on several grounds less than one on a single one.

    `metric` is what is logged as `column`, if it is one.

    Raises:
        ConfigError: they cannot be compared in it.
    """
    notes = []
    for run, ground in zip(runs, grounds, strict=True):
        texts, tokenizers = ground.text != grounds[0].text, ground.tokenizer != grounds[0].tokenizer
        what = "texts" if texts else "tokenizers"
        if (texts or tokenizers) and metric is not None and metric.of_tokens:
            raise ConfigError(
                f"metric ({column}): {runs[0].name} and {run.name} have different {what}, where it means different "
                "things; compare them in bits of a byte: metric=val/bits_per_byte"
            )
        if texts:
            notes.append(f"{runs[0].name} and {run.name} are measured on different texts: one may just be easier")
        elif tokenizers:
            notes.append(f"{runs[0].name} and {run.name} have different tokenizers, and so other windows: not paired")
        elif ground.context_length != grounds[0].context_length:
            notes.append(f"{runs[0].name} and {run.name} have windows of different lengths: not paired")
    return notes[:1]


def sample_of(group: Group, measured: dict[Any, Measured]) -> Sample:
    """What is known of a config: the metric of each seed, and the windows' nats, a mean over the seeds."""
    members = [measured[run.folder] for run in group.runs]
    values = [float(m.nats.sum() / m.units.sum()) for m in members]
    if any(m.ground != members[0].ground for m in members):  # a vocabulary that another seed has learned
        return Sample(np.array(values))
    return Sample(np.array(values), np.mean([m.nats for m in members], axis=0), members[0].units)
