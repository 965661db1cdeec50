"""The weights of every run on the windows of the validation split: a metric, window by window."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from firstlight.compare.groups import Group
from firstlight.compare.runs import Run
from firstlight.compare.settings import CompareSettings
from firstlight.compare.statistics import Floats, ScoreSample
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.data.windows import Windows
from firstlight.errors import ConfigError
from firstlight.metrics.base import Mean, Metric
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.measuring import evaluation_trainer, text_of

AT_ONCE = 4096
"""Most tokens in a batch."""
OF_TEXT = ("_target_", "path", "folder", "train_ratio", "test_ratio")
"""Keys of the section `data` that decide what the validation text is."""


@dataclass(frozen=True)
class Ground:
    """What a run is judged on: a validation text, how it becomes tokens, and how those are cut."""

    text: str
    tokenizer: str
    context_length: int


@dataclass(frozen=True)
class MeasuredWindows:
    """For each window the metric's sum and what it is divided by: (windows,) each.

    See `ScoreSample`.
    """

    totals: Floats
    units: Floats
    ground: Ground


def measured_mean(run: Run, settings: CompareSettings) -> Mean | None:
    """The metric if weights are to be measured in it; None if what the runs logged is used.

    Raises:
        ConfigError: the best weights are to be measured in a metric that is not a mean.
    """
    metric = run.metric(settings.metric)
    if settings.windows > 0 and settings.metric.startswith("val/") and isinstance(metric, Mean):
        return metric
    if settings.weights == "best":
        raise ConfigError(
            f"weights=best: {settings.metric} is not measured with weights; it must be a mean over"
            " val/"
        )
    return None


def scores_last_window(run: Run) -> bool:
    """Whether the run's own validation loss counts the last, shorter window."""
    return bool((run.config.get("data") or {}).get("eval_last_window", False))


def measure_windows(
    run: Run, metric: Mean, settings: CompareSettings, *, last_window: bool
) -> MeasuredWindows:
    """Evaluate a run's weights, in float32, on windows spread evenly over its validation split.

    If these are all windows, the shorter one at the end is added with `last_window`.

    Raises:
        ConfigError: it has no weights, or its text is not available any more.
    """
    checkpoint = find_checkpoint(str(run.folder), best=settings.weights == "best", key="runs")
    loaded = load_checkpoint(checkpoint)
    model = loaded.build_model()
    try:
        text = text_of(loaded, model, "val", settings.data)
    except ConfigError as error:
        raise ConfigError(f"{run.name}: {error}; without its text: windows=0") from error
    windows, tokenizer = text.windows["val"], text.tokenizer
    # float32, whatever the runs trained in: rounding must not decide which one is better.
    device = evaluation_trainer(settings.accelerator, "32-true").strategy.root_device
    module = EvaluationModule(model, tokenizer.byte_lengths).to(device).eval()
    n_windows = min(settings.windows, len(windows))
    # In float32 a place above 2**24 would be rounded to another window.
    chosen = torch.linspace(0, len(windows) - 1, n_windows, dtype=torch.float64).long()
    batches = list(chosen.split(max(AT_ONCE // text.context_length, 1)))
    # It is shorter, so it cannot be in a batch with others.
    if last_window and n_windows == len(windows) and windows.n_rest > 0:
        batches.append(windows.rest_index)
    sums = []
    with torch.inference_mode():
        for index in batches:
            inputs, targets = windows[index]  # (B, T) each
            scored = module.scored((inputs.to(device), targets.to(device)))
            sums += map(metric.sums, scored.windows())
    totals, counts = np.array(sums).T  # (windows,) each
    # A mean may have a constant factor (bits per byte: the bits in a nat), which is its value for
    # equal sums.
    factor = metric.value([1.0, 1.0])
    assert factor is not None
    ground = Ground(
        _digest(windows, tokenizer),
        json.dumps(loaded.tokenizer or loaded.config.get("tokenizer"), default=str),
        text.context_length,
    )
    return MeasuredWindows(totals, counts / factor, ground)


def _digest(windows: Windows, tokenizer: Tokenizer) -> str:
    """Hash the text that the tokens of `windows` stand for."""
    digest = hashlib.sha256()
    for ids in windows.chunks():
        digest.update(tokenizer.decode_bytes(ids.tolist()))
    return digest.hexdigest()


def configured_ground(run: Run) -> Ground:
    """What a run is judged on, as far as its config tells; the text itself is not read."""
    data = run.config.get("data") or {}
    of_text = {key: value for key, value in data.items() if key in OF_TEXT}
    return Ground(
        json.dumps(of_text, sort_keys=True, default=str),
        json.dumps(run.config.get("tokenizer"), sort_keys=True, default=str),
        int(data.get("context_length") or 0),
    )


def check_grounds(
    runs: list[Run], grounds: Mapping[Path, Ground], column: str, metric: Metric | None
) -> list[str]:
    """A note on the first run judged on another ground than `runs[0]`; empty if none is.

    `metric` is what is logged as `column`; None if that is not a metric.

    Raises:
        ConfigError: the runs cannot be compared in it.
    """
    notes = []
    first = grounds[runs[0].folder]
    for run in runs[1:]:
        ground, both = grounds[run.folder], f"{runs[0].name} and {run.name}"
        is_other_text = ground.text != first.text
        is_other_tokenizer = ground.tokenizer != first.tokenizer
        if (is_other_text or is_other_tokenizer) and metric is not None and metric.of_tokens:
            what = "texts" if is_other_text else "tokenizers"
            raise ConfigError(
                f"metric ({column}): {both} have different {what}, where it means different things;"
                " compare them in bits per byte: metric=val/bits_per_byte"
            )
        if is_other_text:
            notes.append(f"{both} are measured on different texts: one may just be easier")
        elif is_other_tokenizer:
            notes.append(f"{both} have different tokenizers, and so other windows: not paired")
        elif ground.context_length != first.context_length:
            notes.append(f"{both} have windows of different lengths: not paired")
    return notes[:1]


def sample_of(group: Group, measured: Mapping[Path, MeasuredWindows]) -> ScoreSample:
    """The scores of a config: the metric of each seed, and window totals averaged over seeds."""
    members = [measured[run.folder] for run in group.runs]
    # A ratio of sums for each seed, as an evaluation computes it; not a mean of windows' ratios.
    values = np.array([member.totals.sum() / member.units.sum() for member in members])
    first = members[0]
    # A tokenizer trained with another seed has another vocabulary, and so other windows.
    if any(member.ground != first.ground for member in members):
        return ScoreSample(values)
    return ScoreSample(values, np.mean([member.totals for member in members], axis=0), first.units)
