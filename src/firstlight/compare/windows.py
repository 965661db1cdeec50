"""The weights of every run on a split of its text: a metric, piece by piece."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from firstlight.compare.runs import Run
from firstlight.compare.settings import CompareSettings
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.data.windows import Windows
from firstlight.errors import ConfigError
from firstlight.metrics.base import Mean, Metric
from firstlight.metrics.splits import FINAL
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.statistics.text import Floats
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.measuring import evaluation_trainer, text_of

AT_ONCE = 4096
"""Most tokens in a batch."""
PIECE = 16
"""Tokens of a piece, the least that is measured by itself. Two windows of 256 are 32 pieces: enough
to tell how much a text varies, where two numbers would tell nothing."""
MOST_BLOCKS = 256
"""Most blocks of text that a verdict looks at: a few thousand would tell no more."""
OF_TEXT = ("_target_", "path", "folder", "train_ratio", "test_ratio")
"""Keys of the section `data` that decide what the validation text is."""


@dataclass(frozen=True)
class Ground:
    """What a run is judged on: a validation text, how it becomes tokens, and how those are cut."""

    text: str
    tokenizer: str
    context_length: int


@dataclass(frozen=True)
class Measured:
    """What was measured of a run, in the order of the text.

    `totals` (pieces,) are what the metric adds up over each piece, `units` (pieces,) what that is
    divided by: its tokens, or its bytes times ln 2.
    """

    totals: Floats
    units: Floats
    n_windows: int
    n_windows_of_text: int
    """How many there are, of which `n_windows` were measured."""
    ground: Ground

    @property
    def value(self) -> float:
        """The metric: a ratio of sums, as an evaluation computes it; not a mean of ratios."""
        return float(self.totals.sum() / self.units.sum())

    def blocks(self, n: int) -> tuple[Floats, Floats]:
        """Totals and units of `n` blocks of neighbouring pieces: (n,) each.

        Block i of one run is about the same place of the text as block i of another, also where
        their windows are of different lengths.
        """
        block_of = np.arange(len(self.totals)) * n // len(self.totals)
        first = np.searchsorted(block_of, np.arange(n))  # of each block
        return np.add.reduceat(self.totals, first), np.add.reduceat(self.units, first)


def measured_mean(run: Run, settings: CompareSettings) -> Mean | None:
    """The metric if weights are to be measured in it; None if what the runs logged is used.

    Raises:
        ConfigError: the best weights are to be measured in a metric that is not a mean.
    """
    metric = run.metric(settings.metric)
    may_measure = settings.measures and settings.split in ("val", FINAL)
    # How often tokens were trained on is known while a run trains, and not afterwards.
    if may_measure and isinstance(metric, Mean) and not metric.needs_counts:
        return metric
    if settings.weights == "best":
        raise ConfigError(
            f"weights=best: {settings.metric} is not measured with weights; it must be a mean over"
            " val/ or test/"
        )
    return None


def scores_last_window(run: Run) -> bool:
    """Whether the run's own validation loss counts the last, shorter window."""
    return bool((run.config.get("data") or {}).get("eval_last_window", False))


def measure(run: Run, metric: Mean, settings: CompareSettings, *, last_window: bool) -> Measured:
    """Evaluate a run's weights, in float32, on windows spread evenly over the metric's split.

    If these are all windows, the shorter one at the end is added with `last_window`.

    Raises:
        ConfigError: it has no weights, or its text is not available any more.
    """
    checkpoint = find_checkpoint(str(run.folder), best=settings.takes_best, key="runs")
    loaded = load_checkpoint(checkpoint)
    model = loaded.build_model()
    try:
        text = text_of(loaded, model, settings.split, settings.data)
    except ConfigError as error:
        raise ConfigError(f"{run.name}: {error}; without its text: windows=0") from error
    windows, tokenizer = text.windows[settings.split], text.tokenizer
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
            for window in scored.windows():
                sums += map(metric.sums, window.split(PIECE))
    totals, counts = np.array(sums).T  # (pieces,) each
    # A mean may have a constant factor (bits per byte: the bits in a nat), which is its value for
    # equal sums.
    factor = metric.value([1.0, 1.0])
    assert factor is not None
    ground = Ground(
        _digest(windows, tokenizer),
        json.dumps(loaded.tokenizer or loaded.config.get("tokenizer"), default=str),
        text.context_length,
    )
    return Measured(totals, counts / factor, n_windows, len(windows), ground)


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
            what = f"texts{_other_shares(runs[0], run)}" if is_other_text else "tokenizers"
            split = column.partition("/")[0]
            raise ConfigError(
                f"metric ({column}): {both} have different {what}, where it means different things;"
                f" compare them in bits per byte: metric={split}/bits_per_byte"
            )
        if is_other_text:
            notes.append(f"{both} are measured on different texts: one may just be easier")
    return notes[:1]


def _other_shares(one: Run, other: Run) -> str:
    """Which shares of a text make the splits of two runs different ones, in words."""
    for key in ("train_ratio", "test_ratio"):
        a, b = ((run.config.get("data") or {}).get(key) for run in (one, other))
        if a != b:
            shares = [json.dumps(value, default=str) for value in (a, b)]
            return f" (data.{key} is {shares[0]} and {shares[1]})"
    return ""


def block_losses(measured: list[Measured]) -> tuple[Floats, Floats]:
    """The metric of each run in each block, (runs, blocks), and the weights of the blocks.

    Weighted, a run's blocks have the mean that is the run's `value`.
    """
    n = min(MOST_BLOCKS, *(len(of_run.totals) for of_run in measured))
    totals, units = np.empty((len(measured), n)), np.empty((len(measured), n))
    for row, of_run in enumerate(measured):
        totals[row], units[row] = of_run.blocks(n)
    weights = units.mean(axis=0)
    # A metric may count some tokens only: a block that has none of them says nothing.
    counts = weights > 0
    totals, units, weights = totals[:, counts], units[:, counts], weights[counts]
    values = np.array([[of_run.value] for of_run in measured])  # (runs, 1)
    # With other tokenizers, blocks hold other numbers of bytes: a block's deviation from the run's
    # value is scaled to the weight that it has for all of them.
    scale = weights * units.sum(axis=1, keepdims=True) / weights.sum()
    return values + (totals - values * units) / scale, weights
