"""The speed ladder: from a plain run to the fastest one, one setting at a time, each rung on top of the one before."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from firstlight.bench.runs import FailedError, Measured, measure
from firstlight.bench.settings import Settings
from firstlight.errors import ConfigError, message_lines
from firstlight.runs.run_config import RunConfig
from firstlight.training.memory.limits import device_memory
from firstlight.training.precision import resolve_precision

PLAIN = {"trainer.precision": "32-true", "optimizer.fused": False, "model.dropout": "torch", "compile": False}
"""Every setting of the ladder at its slowest."""
OWN_NAME = "this config"
"""Of the rung that is the config at hand, where it is on none of the ladder."""
MULTIPLE = 64
"""Of a vocabulary: a size that matrix products on a GPU are fast with."""
WORTH = 1.02
"""How much faster a suggestion is, at least, than what it takes the place of."""


@dataclass(frozen=True)
class Step:
    """What a rung adds to the one before it, or why it is left out."""

    name: str
    settings: dict[str, Any]
    left_out: str = ""
    times_batch: int = 1


@dataclass
class Rung:
    """A config that is measured. `settings` are all of the ladder's that it has, by their keys; `added` those that the
    rung before does not have. `problem`: why it was not measured."""

    name: str
    config: RunConfig
    added: dict[str, Any]
    settings: dict[str, Any]
    times_batch: int = 1
    is_config: bool = False
    """Is this the config at hand, as it is?"""
    runs: list[Measured] = field(default_factory=list)
    problem: str = ""

    @property
    def rates(self) -> list[float]:
        """Tokens a second of each round."""
        return [run.timing.tokens_per_second for run in self.runs]

    @property
    def rate(self) -> float:
        """Their median."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """Between the slowest and the fastest round; 0 if there was one, which says nothing of it."""
        return max(self.rates) - min(self.rates)

    def is_faster(self, other: "Rung") -> bool:
        """By more than WORTH, and by more than the rounds of either are apart?"""
        gain = self.rate - other.rate
        return self.rate >= WORTH * other.rate and gain > max(self.spread, other.spread)

    @property
    def loss(self) -> float:
        """After a run: the same in every round, but for what a device adds in another order."""
        return statistics.median(run.loss for run in self.runs)

    @property
    def compile_seconds(self) -> float | None:
        """Of the first round: torch keeps what it has compiled."""
        return self.runs[0].timing.compile_seconds


def steps(config: dict[str, Any], settings: Settings, device: torch.device) -> Iterator[Step]:
    """The ladder of `config` on `device`, from its first rung on; steps that do not apply say so."""

    def needs(key: str) -> str:
        section, _, name = key.partition(".")
        return "" if name in config[section] else f"this {section} has no {name}"

    no_dropout = needs("model.dropout") or ("" if device.type == "cpu" else f"on {device.type} it is torch's")
    without = {"model.dropout": no_dropout, "optimizer.fused": needs("optimizer.fused")}
    yield Step("plain", {key: value for key, value in PLAIN.items() if not without.get(key)})
    yield Step("fast dropout", {"model.dropout": "fast"}, no_dropout)
    yield Step("fused optimizer", {"optimizer.fused": True}, needs("optimizer.fused"))
    is_32 = resolve_precision("auto", config["trainer"].get("accelerator", "auto")) == "32-true"
    yield Step("precision", {"trainer.precision": "auto"}, "auto is 32-true on this device" if is_32 else "")
    compiles = settings.compile if settings.compile is not None else device.type != "cpu"
    asked = (
        "bench.compile is false" if settings.compile is False else "slow to begin on a CPU; bench.compile=true tries it"
    )
    yield Step("compile", {"compile": True}, "" if compiles else asked)
    size = config["model"].get("vocab_size")
    padded = -(-size // MULTIPLE) * MULTIPLE if size else 0
    why = needs("model.vocab_size") or (f"{size} is a multiple of {MULTIPLE}" if size == padded else "")
    why = "it comes with init_from" if config["init_from"] is not None else why
    yield Step("padded vocabulary", {"model.vocab_size": padded}, why)
    batch, times = config["data"]["batch_size"], 2
    if settings.most_batch < times:
        yield Step("larger batch", {}, f"bench.most_batch is {settings.most_batch}")
    while times <= settings.most_batch:
        yield Step(f"batch x{times}", {"data.batch_size": times * batch}, times_batch=times)
        times *= 2


class Ladder:
    """Climbs the ladder of the short run `config`, in the folder `work`; `tell` hears what is going on.

    `device` is the run's, and `peak` are the bytes that it took as it is.
    """

    def __init__(
        self,
        config: RunConfig,
        settings: Settings,
        *,
        device: torch.device,
        peak: int,
        work: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.config, self.settings, self.device, self.peak = config, settings, device, peak
        self.work, self.tell = work, tell
        self.rungs: list[Rung] = []
        self.left_out: list[Step] = []

    def climb(self) -> None:
        """Measure every rung, then all of them again, round after round.

        A rung that fails, or whose loss is above plain's by more than the tolerance, is not carried on: the next one is
        built on the one before it. After a batch that does not fit, none that is larger is tried.

        Raises:
            FailedError: the config at hand could not be measured.
        """
        held: dict[str, Any] = {}
        for step in steps(self.config.plain, self.settings, self.device):
            if step.left_out or (step.times_batch > 2 and self.rungs[-1].problem):
                self.left_out += [step] if step.left_out else []
                continue
            rung = self._rung(step, held)
            self.rungs.append(rung)
            self._try(rung, 1)
            if not held or self._is_sound(rung):  # whatever became of plain, the others are built on it
                held = rung.settings
        if not any(rung.is_config for rung in self.measured):
            self.rungs.append(Rung(OWN_NAME, self.config, {}, {}, is_config=True))
            self._try(self.rungs[-1], 1)
            if self.rungs[-1].problem:
                raise FailedError(f"this config was measured once, but not again: {self.rungs[-1].problem}")
        for number in range(2, self.settings.rounds + 1):
            for rung in self.measured:
                self._try(rung, number)

    def _is_sound(self, rung: Rung) -> bool:
        """Was it measured, and is its loss within the tolerance of plain's (as far as that was measured)?"""
        return not rung.problem and rung.loss <= self.measured[0].loss * (1 + self.settings.tolerance)

    @property
    def measured(self) -> list[Rung]:
        """Those that could be."""
        return [rung for rung in self.rungs if not rung.problem]

    def _rung(self, step: Step, held: dict[str, Any]) -> Rung:
        has = held | step.settings
        changes = nested(has)
        if step.times_batch > 1:  # evaluated on the same windows, as far as that can be
            n_batches = max(1, self.settings.eval_batches // step.times_batch)
            changes["data"] = changes["data"] | {"eval_batches": n_batches}
        is_config = all(_is_same(self.config.plain, key, value) for key, value in has.items())
        return Rung(step.name, self.config.changed(changes), step.settings, has, step.times_batch, is_config)

    def _try(self, rung: Rung, number: int) -> None:
        self.tell(f"round {number} of {self.settings.rounds}: {rung.name}")
        if rung.times_batch > 1 and not rung.runs and (problem := self._too_large(rung.times_batch)):
            rung.problem = problem
            return
        try:
            folder = self.work / f"{self.rungs.index(rung)}_{number}"
            rung.runs.append(measure(rung.config, self.settings.warmup_steps, folder))
        except (ConfigError, FailedError) as error:
            if not rung.runs:  # what failed later was measured before
                rung.problem = message_lines(error)[0]

    def _too_large(self, times: int) -> str:
        """Why `times` the batch is not tried, if so: the kernel ends a process that takes all of a computer's memory,
        where a GPU says so."""
        may_need, (of, available) = times * self.peak, device_memory("cpu")
        if self.device.type == "cuda" or may_need <= available:
            return ""
        return f"not tried: it may need {decimal(may_need)}, and {of} has {decimal(available)}"


@dataclass(frozen=True)
class Suggestion:
    """The fastest rung, `overrides` that make it of the config at hand, and how many times as fast it is."""

    rung: Rung
    overrides: list[str]
    times: float


def suggestions(ladder: Ladder) -> tuple[Suggestion, Suggestion | None]:
    """The fastest rung whose loss is not above plain's by more than the tolerance; and a larger batch, if it is faster
    still: at one loss or not, that is another training.

    It begins with the config as it is, and a rung takes its place only by a gain that the rounds' spread cannot be.
    """
    measured = ladder.measured
    most = measured[0].loss * (1 + ladder.settings.tolerance)
    (config,) = (rung for rung in measured if rung.is_config)

    def suggestion(rung: Rung) -> Suggestion:
        differing = {k: v for k, v in rung.settings.items() if not _is_same(ladder.config.plain, k, v)}
        return Suggestion(rung, as_overrides(differing, ladder.config.plain), rung.rate / config.rate)

    sound = [rung for rung in measured if rung.loss <= most]
    fastest = config if config in sound else next(rung for rung in sound if rung.times_batch == 1)
    for rung in (rung for rung in sound if rung.times_batch == 1):
        fastest = rung if rung.is_faster(fastest) else fastest
    larger = fastest
    for rung in (rung for rung in sound if rung.times_batch > 1):
        larger = rung if rung.is_faster(larger) else larger
    return suggestion(fastest), suggestion(larger) if larger is not fastest else None


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (changes.setdefault(section, {}) if section else changes)[name] = value
    return changes


def as_overrides(settings: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """As they are written on the command line; with + where `config` has no such key yet."""
    words = {True: "true", False: "false"}
    return [
        f"{'' if _has(config, key) else '+'}{key}={words[value] if isinstance(value, bool) else value}"
        for key, value in settings.items()
    ]


def _has(config: dict[str, Any], key: str) -> bool:
    section, _, name = key.rpartition(".")
    return name in (config[section] if section else config)


def _is_same(config: dict[str, Any], key: str, value: Any) -> bool:
    """Does `config` have this value already, or one that comes to the same here?"""
    if not _has(config, key):
        return False
    section, _, name = key.rpartition(".")
    own = (config[section] if section else config)[name]
    if key == "trainer.precision":
        accelerator = config["trainer"].get("accelerator", "auto")
        return resolve_precision(own, accelerator) == resolve_precision(value, accelerator)
    return own == value
