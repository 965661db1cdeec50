"""The speed ladder: from a plain run to the fastest one, one setting at a time."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from firstlight.bench.runs import FailedError, MeasuredRun, measure
from firstlight.bench.settings import BenchSettings
from firstlight.config import argument
from firstlight.errors import ConfigError, message_lines
from firstlight.memory_limits import device_memory
from firstlight.runs.run_config import RunConfig
from firstlight.training.precision import resolve_precision

PLAIN = {
    "trainer.precision": "32-true",
    "optimizer.fused": False,
    "model.dropout": "torch",
    "compile": False,
}
"""The slowest value of each setting on the ladder."""
OWN_NAME = "this config"
"""Name of the rung that is the user's config, if no rung of the ladder equals it."""
MULTIPLE = 64
"""Matrix products on a GPU are fast with vocabulary sizes that are multiples of this."""
WORTH = 1.02
"""Least speed-up, as a factor, for which a suggestion replaces another."""


@dataclass(frozen=True)
class Step:
    """What a rung adds to the one before it, or why it is left out."""

    name: str
    settings: dict[str, Any]
    left_out: str = ""
    times_batch: int = 1


@dataclass
class Rung:
    """A config to measure."""

    name: str
    config: RunConfig
    added: dict[str, Any]
    """The settings that the rung before does not have."""
    settings: dict[str, Any]
    """All settings of the ladder that it has, by dotted key."""
    times_batch: int = 1
    is_config: bool = False
    """Whether this is the user's config, unchanged."""
    runs: list[MeasuredRun] = field(default_factory=list)
    problem: str = ""
    """Why it was not measured."""

    @property
    def rates(self) -> list[float]:
        """Tokens per second in each round."""
        return [run.timing.tokens_per_second for run in self.runs]

    @property
    def rate(self) -> float:
        """Median of the rates."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """Tokens per second between the slowest and the fastest round; 0 if there is only one."""
        return max(self.rates) - min(self.rates)

    def is_faster(self, other: "Rung") -> bool:
        """Whether it is faster by a factor of WORTH, and by more than the spread of either."""
        gain = self.rate - other.rate
        return self.rate >= WORTH * other.rate and gain > max(self.spread, other.spread)

    @property
    def loss(self) -> float:
        """Median validation loss. Rounds differ only where a device sums in another order."""
        return statistics.median(run.loss for run in self.runs)

    @property
    def compile_seconds(self) -> float | None:
        """Compile time of the first round: torch caches what it has compiled."""
        return self.runs[0].timing.compile_seconds


def steps(config: dict[str, Any], settings: BenchSettings, device: torch.device) -> Iterator[Step]:
    """The steps of the ladder for `config` on `device`; those that do not apply say why."""
    # The reason why a step does not apply; empty if it does.
    no_dropout, no_fused = _lacks(config, "model.dropout"), _lacks(config, "optimizer.fused")
    if not no_dropout and device.type != "cpu":
        no_dropout = f"on {device.type} dropout is always torch's"
    plain = PLAIN.copy()
    if no_dropout:
        del plain["model.dropout"]
    if no_fused:
        del plain["optimizer.fused"]
    # From the least change of a training to the greatest: other masks, other rounding, at last
    # another batch. A worse loss is then blamed on the rung that brought it.
    yield Step("plain", plain)
    yield Step("fast dropout", {"model.dropout": "fast"}, no_dropout)
    yield Step("fused optimizer", {"optimizer.fused": True}, no_fused)
    no_precision = ""
    if _precision("auto", config) == "32-true":
        no_precision = "auto is 32-true on this device"
    yield Step("precision", {"trainer.precision": "auto"}, no_precision)
    yield Step("compile", {"compile": True}, _no_compile(settings, device))
    yield _padded_vocabulary(config)
    if settings.most_batch < 2:
        yield Step("larger batch", {}, f"bench.most_batch is {settings.most_batch}")
    # Doubled each time, since the memory of a step grows with the batch.
    times = 2
    while times <= settings.most_batch:
        batch_size = times * config["data"]["batch_size"]
        yield Step(f"batch x{times}", {"data.batch_size": batch_size}, times_batch=times)
        times *= 2


def _lacks(config: dict[str, Any], key: str) -> str:
    section, name = key.split(".")
    if name in config[section]:
        return ""
    return f"this {section} has no {name}"


def _no_compile(settings: BenchSettings, device: torch.device) -> str:
    if settings.compile is False:
        return "bench.compile is false"
    if settings.compile is None and device.type == "cpu":
        return "compiling is slow on a CPU; bench.compile=true tries it"
    return ""


def _padded_vocabulary(config: dict[str, Any]) -> Step:
    size = config["model"].get("vocab_size") or 0
    padded = -(-size // MULTIPLE) * MULTIPLE  # rounded up
    why = _lacks(config, "model.vocab_size")
    if not why and size == padded:
        why = f"{size} is a multiple of {MULTIPLE}"
    # The weights of another model have its vocabulary; a padded one would not fit them.
    if config["init_from"] is not None:
        why = "it comes with init_from"
    return Step("padded vocabulary", {"model.vocab_size": padded}, why)


@dataclass
class Ladder:
    """Climbs the ladder of the short run `config`."""

    config: RunConfig
    settings: BenchSettings
    device: torch.device
    peak: int
    """Bytes that the config needs as it is."""
    work: Path
    """Folder in which the runs are made."""
    tell: Callable[[str], None]
    """Called with what is measured next."""
    rungs: list[Rung] = field(default_factory=list)
    left_out: list[Step] = field(default_factory=list)

    def climb(self) -> None:
        """Measure every rung, then all of them again, round after round.

        The next rung is built on the last one that did not fail and whose loss is not above plain's
        by more than the tolerance. After a batch that does not fit, no larger one is tried.

        Raises:
            FailedError: the user's config could not be measured.
        """
        # The first round decides which settings are kept for the next rung.
        held: dict[str, Any] = {}
        for step in steps(self.config.plain, self.settings, self.device):
            if step.left_out:
                self.left_out.append(step)
                continue
            if step.times_batch > 2 and self.rungs[-1].problem:
                continue
            rung = self._rung(step, held)
            self.rungs.append(rung)
            self._try(rung, 1)
            is_plain = not held  # the others are built on it even if it failed
            if is_plain or self._is_sound(rung):
                held = rung.settings
        # The user's config must be among the measured rungs, to compare with.
        if not any(rung.is_config for rung in self.measured):
            own = Rung(OWN_NAME, self.config, {}, {}, is_config=True)
            self.rungs.append(own)
            self._try(own, 1)
            if own.problem:
                raise FailedError(f"this config was measured once, but not again: {own.problem}")
        # Whole rounds, not rung by rung: a machine that slows down with time slows down all rungs.
        for number in range(2, self.settings.rounds + 1):
            for rung in self.measured:
                self._try(rung, number)

    def _is_sound(self, rung: Rung) -> bool:
        return not rung.problem and rung.loss <= self.highest_loss

    @property
    def measured(self) -> list[Rung]:
        """The rungs that could be measured."""
        return [rung for rung in self.rungs if not rung.problem]

    @property
    def highest_loss(self) -> float:
        """The highest loss of a suggestion: that of the first measured rung, plus the tolerance."""
        return self.measured[0].loss * (1 + self.settings.tolerance)

    def _rung(self, step: Step, held: dict[str, Any]) -> Rung:
        settings = held | step.settings
        changes = nested(settings)
        # Fewer of the larger batches: the same windows are evaluated, as far as possible.
        if step.times_batch > 1:
            changes["data"]["eval_batches"] = max(1, self.settings.eval_batches // step.times_batch)
        is_config = all(
            _has_value(self.config.plain, key, value) for key, value in settings.items()
        )
        return Rung(
            step.name,
            self.config.changed(changes),
            step.settings,
            settings,
            step.times_batch,
            is_config,
        )

    def _try(self, rung: Rung, number: int) -> None:
        self.tell(f"round {number} of {self.settings.rounds}: {rung.name}")
        if rung.times_batch > 1 and not rung.runs:
            rung.problem = self._too_large(rung.times_batch)
            if rung.problem:
                return
        try:
            folder = self.work / f"{self.rungs.index(rung)}_{number}"
            rung.runs.append(measure(rung.config, self.settings.warmup_steps, folder))
        except (ConfigError, FailedError) as error:
            if not rung.runs:  # a later failure leaves what was measured before
                rung.problem = message_lines(error)[0]

    def _too_large(self, times: int) -> str:
        """Why `times` the batch is not tried; empty if it is.

        A GPU refuses memory that it does not have; on a CPU the kernel may end the process.
        """
        may_need = times * self.peak
        where, available = device_memory("cpu")
        if self.device.type == "cuda" or may_need <= available:
            return ""
        return f"not tried: it may need {decimal(may_need)}, and {where} has {decimal(available)}"


@dataclass(frozen=True)
class Suggestion:
    """A rung, its overrides on top of the user's config, and its speed relative to it."""

    rung: Rung
    overrides: list[str]
    times: float


def suggestions(ladder: Ladder) -> tuple[Suggestion, Suggestion | None]:
    """The fastest sound rung with the config's batch, and a larger batch if that is faster.

    Sound means that its loss is within the tolerance.

    A larger batch is kept apart because it is a different training. The search begins with the
    user's config, and a rung replaces it only by a gain that cannot be the spread of the rounds.
    """
    sound = [rung for rung in ladder.measured if rung.loss <= ladder.highest_loss]
    same_batch = [rung for rung in sound if rung.times_batch == 1]
    # `climb` has made sure that there is exactly one.
    (config,) = (rung for rung in ladder.measured if rung.is_config)
    # The user's config may itself be above the tolerance: then the plain rung is what others must
    # beat.
    first = config if config in sound else same_batch[0]
    fastest = _fastest(first, same_batch)
    larger = _fastest(fastest, [rung for rung in sound if rung.times_batch > 1])

    def suggestion(rung: Rung) -> Suggestion:
        plain = ladder.config.plain
        settings = rung.settings.items()
        differing = {key: value for key, value in settings if not _has_value(plain, key, value)}
        return Suggestion(rung, as_overrides(differing, plain), rung.rate / config.rate)

    if larger is fastest:
        return suggestion(fastest), None
    return suggestion(fastest), suggestion(larger)


def _fastest(first: Rung, others: list[Rung]) -> Rung:
    for rung in others:
        if rung.is_faster(first):
            first = rung
    return first


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        section, dot, name = key.rpartition(".")
        if dot:
            changes.setdefault(section, {})[name] = value
        else:
            changes[key] = value
    return changes


def as_overrides(settings: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The overrides that set `settings`, with + for keys that `config` does not have."""
    words = []
    for key, value in settings.items():
        section, name = _place(config, key)
        if isinstance(value, bool):
            value = str(value).lower()
        word = f"{key}={value}"
        words.append(word if name in section else f"+{word}")
    return words


def _place(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section of `config` that a dotted key is in, and its name there."""
    section, dot, name = key.rpartition(".")
    return (config[section], name) if dot else (config, key)


def _has_value(config: dict[str, Any], key: str, value: Any) -> bool:
    """Whether `config` has this value, or one that means the same on this machine."""
    section, name = _place(config, key)
    if name not in section:
        return False
    # "auto" and what it means here are one rung, not two.
    if key == "trainer.precision":
        return _precision(section[name], config) == _precision(value, config)
    return section[name] == value


def _precision(name: str, config: dict[str, Any]) -> str:
    return resolve_precision(name, argument(config["trainer"], "accelerator"))
