"""Are two runs the same run? Everything in their folders that is not decided by a clock, bit for bit."""

import json
import math
from collections import Counter
from collections.abc import Iterator
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
from firstlight.runs.run_folder import METRICS, SAMPLES, RunFolder
from firstlight.training.loggers.tensorboard import EVENT_FILES
from firstlight.training.loggers.wandb import FOLDER as WANDB

CLOCK = ("tokens_per_second", "mfu")
"""Metrics that a clock decides."""
OF_BYTES = ("files", "sha256")
"""Keys of a checkpoint.json: sizes and digests of files, which may hold the same in other bytes (pickle's)."""


@dataclass
class Comparison:
    """What is different, a line each, and how much was compared."""

    differences: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)

    @property
    def is_same(self) -> bool:
        """Is everything equal?"""
        return not self.differences

    def __str__(self) -> str:
        if self.is_same:
            return ", ".join(f"{n:,} {what}" for what, n in self.compared.items()) + " equal"
        more = f" (and {len(self.differences) - 1} more differences)" if len(self.differences) > 1 else ""
        return f"{self.differences[0]}{more}"


def compare(one: Path, other: Path) -> Comparison:
    """Compare the run folders `one` and `other`."""
    result = Comparison()
    for part in (_metrics, _samples, _tensorboard, _files):
        result.differences += part(one, other, result.compared)
    return result


def _metrics(one: Path, other: Path, compared: Counter[str]) -> Iterator[str]:
    rows, twins = ({row["step"]: row for row in RunFolder(run).rows} for run in (one, other))
    for run in (one, other):
        counts = Counter(row["step"] for row in RunFolder(run).rows)
        yield from (f"{METRICS}: step {step} is in it {n} times" for step, n in counts.items() if n > 1)
    yield from _missing(METRICS, "step", rows, twins)
    for step in _common(rows, twins):
        compared["rows"] += 1
        row, twin = rows[step], twins[step]
        yield from _missing(f"{METRICS}: step {step}", "column", row, twin)
        for name in _common(row, twin):
            if row[name] != twin[name] and name not in CLOCK:
                yield f"{METRICS}: step {step}, {name}: {row[name] or 'nothing'} and {twin[name] or 'nothing'}"


def _samples(one: Path, other: Path, compared: Counter[str]) -> Iterator[str]:
    text, twin = ((run / SAMPLES).read_bytes() if (run / SAMPLES).is_file() else b"" for run in (one, other))
    lines, twins = text.splitlines(), twin.splitlines()
    compared["lines of samples"] += len(lines)
    if text != twin:
        pairs = enumerate(zip([*lines, b"(the end)"], [*twins, b"(the end)"], strict=False), start=1)
        number, (line, other_line) = next(((n, pair) for n, pair in pairs if pair[0] != pair[1]), (0, (text, twin)))
        yield f"{SAMPLES}: line {number}: {shorten(repr(line), 40)} and {shorten(repr(other_line), 40)}"


def _tensorboard(one: Path, other: Path, compared: Counter[str]) -> Iterator[str]:
    curves, twins = curves_of(one), curves_of(other)
    yield from _missing("tensorboard", "curve", curves, twins)
    for tag in _common(curves, twins):
        points, others = dict(curves[tag]), dict(twins[tag])
        compared["points of curves"] += len(points)
        for run in (curves[tag], twins[tag]):
            counts = Counter(step for step, _ in run)
            yield from (f"tensorboard: {tag}: step {step} is there {n} times" for step, n in counts.items() if n > 1)
        yield from _missing(f"tensorboard: {tag}", "step", points, others)
        for step in _common(points, others):
            if points[step] != others[step] and tag.split("/")[-1] not in CLOCK:
                yield f"tensorboard: {tag}: step {step}: {points[step]} and {others[step]}"


def curves_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that TensorBoard shows, by curve."""
    events = EventAccumulator(str(run), tensor_size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag, summary in events.AllSummaryMetadata().items() if summary.plugin_data.plugin_name == "scalars"]
    return {tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)] for tag in tags}


def _files(one: Path, other: Path, compared: Counter[str]) -> Iterator[str]:
    """Every other file that is not hidden; of weights, of the optimizer's state and of JSON what they hold."""
    files, twins = ({str(file.relative_to(run)): file for file in _stored(run)} for run in (one, other))
    yield from _missing("run folder", "file", files, twins)
    for name in sorted(_common(files, twins)):
        yield from _values(name, _read(files[name]), _read(twins[name]), compared)


def _stored(run: Path) -> Iterator[Path]:
    for file in run.rglob("*"):
        top, *_ = parts = file.relative_to(run).parts
        if (
            file.is_file()
            and not any(part.startswith(".") for part in parts)
            and top not in (METRICS, SAMPLES, WANDB)
            and not file.match(EVENT_FILES)
        ):
            yield file


def _read(file: Path) -> Any:
    if file.suffix == ".json":
        return {k: v for k, v in json.loads(file.read_text(encoding="utf-8")).items() if k not in OF_BYTES}
    if file.suffix in (".pt", ".ckpt"):
        return load_plain(file)
    if file.suffix == ".safetensors":
        with open_safetensors(file) as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {"metadata": opened.metadata(), "tensors": tensors}
    return file.read_bytes()


def _values(where: str, one: Any, other: Any, compared: Counter[str]) -> Iterator[str]:
    """Differences of plain data, nested as it may be; tensors and numbers by their bits."""
    if type(one) is not type(other):
        yield f"{where}: {shorten(repr(one), 40)} and {shorten(repr(other), 40)}"
    elif isinstance(one, Tensor):
        compared["tensors"] += 1
        yield from _tensors(where, one, other)
    elif isinstance(one, dict):
        yield from _missing(where, "key", one, other)
        for key in _common(one, other):
            yield from _values(f"{where}: {key}", one[key], other[key], compared)
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
    bits, twins = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    if not torch.equal(bits, twins):
        wrong = (bits != twins).view(-1, one.element_size()).any(dim=1).nonzero().flatten()
        values = (t.reshape(-1)[wrong[0]].item() for t in (one, other))
        yield f"{where}: {len(wrong):,} of {one.numel():,} numbers, the first {' and '.join(map(repr, values))}"


def _common(one: dict[Any, Any], other: dict[Any, Any]) -> list[Any]:
    """The keys of both, in the order of the first: the first difference that is found is the earliest."""
    return [key for key in one if key in other]


def _missing(where: str, what: str, one: dict[Any, Any], other: dict[Any, Any]) -> Iterator[str]:
    for name, present, absent in (("the second run", one, other), ("the first run", other, one)):
        yield from (f"{where}: {name} has no {what} {key}" for key in present if key not in absent)
