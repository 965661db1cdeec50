"""What a sweep is: the section `sweep` of the config."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import Field

from firstlight.compose.compose import compose_config
from firstlight.compose.grammar import MOST_TRIALS
from firstlight.config import LAST_SEED, FinitePositive, NonEmpty, Seed, check_config
from firstlight.errors import ConfigError
from firstlight.metrics.base import Direction
from firstlight.metrics.measured import check_name, columns, metrics_of

COSTS: dict[str, Direction] = {"seconds": "min", "tokens": "min"}
"""Objectives that are not metrics: the cost of a trial."""
Count = Annotated[int, Field(ge=1, le=MOST_TRIALS)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See conf/sweep/default.yaml, where each is explained."""

    params: dict[str, str | int | float | bool | None]
    only_if: list[NonEmpty]
    sampler: Literal["grid", "random", "tpe", "nsgaii"] | None
    trials: Count
    pruner: Literal["median", "hyperband"] | None
    prune_after_steps: Annotated[int, Field(ge=0, le=10**12)]
    objectives: Annotated[list[NonEmpty], Field(min_length=1, max_length=3)]
    seed: Seed
    timeout: FinitePositive | None
    storage: NonEmpty | None

    def __post_init__(self) -> None:
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(
                f"sweep.objectives ({', '.join(self.objectives)}) must differ from each other"
            )
        if self.pruner is not None and self.objectives != ["val/loss"]:
            raise ConfigError(
                f"sweep.pruner ({self.pruner}) compares validation losses: it needs"
                " sweep.objectives=[val/loss]"
            )


def number_of(key: Literal["seed", "seeds", "sweep.trials"], value: Any) -> int:
    """The seed of a trial, or the number of seeds or of points to draw.

    Raises:
        ConfigError: `value` is none; `key` is where it was given.
    """
    section, _, name = key.rpartition(".")
    return check_config(OmegaConf.create({name: value}), _numbers, section)[name]


def seeds_from(seed: int, n_seeds: int) -> list[int]:
    """The seeds of as many runs: `seed` and those that follow.

    Raises:
        ConfigError: the last ones are none.
    """
    last = seed + n_seeds - 1
    if last > LAST_SEED:
        raise ConfigError(
            f"seed ({seed}): {n_seeds} seeds from it on end at {last}, and the largest seed is"
            f" {LAST_SEED}; lower seed"
        )
    return list(range(seed, last + 1))


def _numbers(*, seed: Seed = 0, seeds: Count = 1, trials: Count = 1) -> None:
    """What each of them may be; one is checked at a time."""


def directions_of(objectives: Iterable[str], config: dict[str, Any]) -> list[Direction]:
    """The direction of each objective, for trials of this config.

    Objectives are its metrics, at the end of a trial or (`best/val/...`) at its best checkpoint,
    and its cost.

    Raises:
        ConfigError: such a trial has no such metric.
    """
    known: dict[str, Direction] = {}
    for column, metric in columns(metrics_of(config)).items():
        known[column] = metric.direction
        if column.startswith("val/"):
            known[f"best/{column}"] = metric.direction
    known |= COSTS
    for name in objectives:
        check_name("sweep.objectives", name, known)
    return [known[name] for name in objectives]


def conditional_key(rule: str) -> str:
    """The key that a rule "KEY if OTHER=VALUE" is about."""
    return rule.partition(" if ")[0].strip()


def only_in_some(overrides: list[str], config_dir: str | None) -> list[str]:
    """The keys that `sweep.only_if` sets only where another key has a certain value."""
    of_the_sweep = [word for word in overrides if word.startswith(("sweep=", "sweep."))]
    if not of_the_sweep:
        return []
    section = compose_config("train", of_the_sweep, config_dir).sweep
    rules = section.get("only_if") if isinstance(section, DictConfig) else None
    if not isinstance(rules, ListConfig):  # refused later, when the section is checked
        return []
    return [conditional_key(str(rule)) for rule in rules]
