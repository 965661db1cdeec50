"""What a sweep is: the section `sweep` of the config."""

from dataclasses import dataclass
from typing import Annotated, Literal

from omegaconf import DictConfig, ListConfig
from pydantic import Field

from firstlight.compose.compose import compose_config
from firstlight.compose.grammar import MOST_TRIALS
from firstlight.config import FinitePositive, NonEmpty, Seed
from firstlight.errors import ConfigError, did_you_mean

OBJECTIVES = (
    *("val/loss", "val/perplexity", "val/bits_per_byte", "train/loss", "train/perplexity", "train/bits_per_byte"),
    *("best/val/loss", "best/val/bits_per_byte", "seconds", "tokens"),
)
"""What a trial is judged by, the lower the better: at its end, at its best checkpoint, and what it cost."""
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
        for name in self.objectives:
            if name not in OBJECTIVES:
                known = f"{did_you_mean(name, OBJECTIVES)} (one of: {', '.join(OBJECTIVES)})"
                raise ConfigError(f"sweep.objectives: no run has the metric '{name}'{known}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"sweep.objectives ({', '.join(self.objectives)}) must differ from each other")
        if self.pruner is not None and self.objectives != ["val/loss"]:
            raise ConfigError(
                f"sweep.pruner ({self.pruner}) compares validation losses: it needs sweep.objectives=[val/loss]"
            )


def conditional_key(rule: str) -> str:
    """The key that a rule "KEY if OTHER=VALUE" is about."""
    return rule.partition(" if ")[0].strip()


def only_in_some(overrides: list[str], config_dir: str | None) -> list[str]:
    """The keys that `sweep.only_if` sets only where another has a value, and that other trials may not have."""
    of_the_sweep = [word for word in overrides if word.startswith(("sweep=", "sweep."))]
    if not of_the_sweep:
        return []
    section = compose_config("train", of_the_sweep, config_dir).sweep
    rules = section.get("only_if") if isinstance(section, DictConfig) else None
    if not isinstance(rules, ListConfig):  # whatever it is, is refused later
        return []
    return [conditional_key(str(rule)) for rule in rules]
