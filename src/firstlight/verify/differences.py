"""Compare two runs: everything in their folders that no clock decides, bit for bit."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import Tensor

from firstlight.checkpoints.checkpoint import load_plain
from firstlight.checkpoints.limits import open_safetensors
from firstlight.errors import shorten
from firstlight.runs.run_folder import EVENT_FILES, METRICS, SAMPLES, RunFolder
from firstlight.training.loggers.wandb import FOLDER as WANDB

TENSORBOARD = "tensorboard"
CLOCK = {"tokens_per_second", "mfu"}
"""Metrics that depend on the clock."""
OF_BYTES = ("files", "sha256")
"""Keys of a checkpoint.json that describe bytes of files: in a pickle other bytes may be the same
values."""


@dataclass
class Comparison:
    """What is different, a line each, and how much was compared."""

    differences: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)

    @property
    def is_same(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        if self.is_same:
            return ", ".join(f"{n:,} {what}" for what, n in self.compared.items()) + " equal"
        first, *others = self.differences
        return f"{first} (and {len(others)} more differences)" if others else first


def compare_runs(one: Path, other: Path) -> Comparison:
    """Compare the run folders `one` and `other`."""
    result = Comparison()
    # Logs by step, whose rows need not be the same bytes: a clock decides some of their values.
    logs, twin_logs = _logs(one, result), _logs(other, result)
    result.compared["rows"] = len(logs[METRICS])
    result.compared["lines of samples"] = len(logs[SAMPLES])
    result.compared["points of curves"] = sum(map(len, logs[TENSORBOARD].values()))
    for name, log in logs.items():
        result.differences += _values(name, log, twin_logs[name], result.compared)
    # One file after the other: those of a large model do not fit into memory together.
    files, twins = _stored(one), _stored(other)
    result.differences += _missing("run folder", files, twins)
    for name in _common(files, twins):
        result.differences += _values(name, _read(files[name]), _read(twins[name]), result.compared)
    return result


def _logs(run: Path, result: Comparison) -> dict[str, dict[str, Any]]:
    """Rows, samples and curves by file and step, without the values that a clock decides.

    Steps that a run has logged twice are added to the differences of `result`.
    """
    rows: dict[str, dict[str, str]] = {}
    for row in RunFolder(run).rows:
        step = f"step {row['step']}"
        if step in rows:
            result.differences.append(f"{METRICS}: {step} is there twice")
        for name in CLOCK & row.keys():
            row[name] = ""
        rows[step] = row
    curves: dict[str, dict[str, float]] = {}
    for tag, points in curves_of(run).items():
        curve = curves.setdefault(tag, {})
        for number, value in points:
            step = f"step {number}"
            if step in curve:
                result.differences.append(f"{TENSORBOARD}: {tag}: {step} is there twice")
            curve[step] = 0.0 if tag.split("/")[-1] in CLOCK else value
    lines: list[bytes] = []
    if (run / SAMPLES).is_file():
        # Bytes: a sample may hold half of a character.
        lines = (run / SAMPLES).read_bytes().splitlines(keepends=True)
    samples = {f"line {number}": line for number, line in enumerate(lines, start=1)}
    return {METRICS: rows, SAMPLES: samples, TENSORBOARD: curves}


def curves_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that TensorBoard shows, by curve."""
    # TensorBoard's own reader, so that what a resumed run has hidden is hidden here as well.
    events = EventAccumulator(str(run), tensor_size_guidance={"scalars": 0}).Reload()
    curves = {}
    for tag, summary in events.AllSummaryMetadata().items():
        if summary.plugin_data.plugin_name == "scalars":
            curves[tag] = [
                (event.step, make_ndarray(event.tensor_proto).item())
                for event in events.Tensors(tag)
            ]
    return curves


def _stored(run: Path) -> dict[str, Path]:
    found = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run)
        is_hidden = any(part.startswith(".") for part in name.parts)
        is_compared = name.parts[0] in (METRICS, SAMPLES) or file.match(EVENT_FILES)
        if file.is_file() and not is_hidden and not is_compared and name.parts[0] != WANDB:
            found[str(name)] = file
    return found


def _read(file: Path) -> Any:
    if file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        return {key: value for key, value in content.items() if key not in OF_BYTES}
    if file.suffix in (".pt", ".ckpt"):
        # As values: a pickle can hold the same ones in other bytes.
        return load_plain(file)
    if file.suffix == ".safetensors":
        with open_safetensors(file) as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is not a mapping)
            return {"metadata": opened.metadata(), "tensors": tensors}
    return file.read_bytes()


def _values(where: str, one: Any, other: Any, compared: Counter[str]) -> Iterator[str]:
    """Differences of nested plain data; tensors are compared bit for bit."""
    if type(one) is not type(other):
        yield f"{where}: {shorten(repr(one), 40)} and {shorten(repr(other), 40)}"
    elif isinstance(one, Tensor):
        compared["tensors"] += 1
        yield from _tensors(where, one, other)
    elif isinstance(one, dict):
        for key in _common(one, other):
            yield from _values(f"{where}: {key}", one[key], other[key], compared)
        yield from _missing(where, one, other)
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} entries"
        for number, (item, twin) in enumerate(zip(one, other, strict=False)):
            yield from _values(f"{where}: {number}", item, twin, compared)
    elif one != other and not (isinstance(one, float) and math.isnan(one) and math.isnan(other)):
        yield f"{where}: {shorten(repr(one), 60)} and {shorten(repr(other), 60)}"


def _tensors(where: str, one: Tensor, other: Tensor) -> Iterator[str]:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        yield f"{where}: {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
        return
    one, other = one.contiguous().flatten(), other.contiguous().flatten()
    is_other = one.view(torch.uint8) != other.view(torch.uint8)  # nan is nan, and 0.0 is not -0.0
    if is_other.any():
        wrong = is_other.view(-1, one.element_size()).any(dim=1).nonzero().flatten()
        value, twin = one[wrong[0]].item(), other[wrong[0]].item()
        yield (
            f"{where}: {len(wrong):,} of {one.numel():,} numbers, the first {value!r} and {twin!r}"
        )


def _common(one: Collection[Any], other: Collection[Any]) -> list[Any]:
    """The keys of both, in the order of the first, so the earliest difference is found first."""
    return [key for key in one if key in other]


def _missing(where: str, one: Collection[Any], other: Collection[Any]) -> Iterator[str]:
    for name, present, absent in (("the second run", one, other), ("the first run", other, one)):
        for key in present:
            if key not in absent:
                yield f"{where}: {name} has no {key}"
