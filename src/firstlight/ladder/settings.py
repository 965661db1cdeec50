"""What `firstlight ladder` is asked for."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import FinitePositive, NonEmpty
from firstlight.errors import ConfigError, shorten
from firstlight.statistics.scaling import LEAST_BUDGETS, LEAST_RATES, LEAST_SEEDS, LEAST_SIZES

Budget = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
Seeds = Annotated[int, Field(ge=LEAST_SEEDS, le=1000)]


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """See conf/ladder.yaml, where each is explained."""

    budgets: Annotated[list[Budget], Field(min_length=LEAST_BUDGETS)]
    sizes: Annotated[list[NonEmpty], Field(min_length=LEAST_SIZES)]
    tokens_per_parameter: Annotated[list[FinitePositive], Field(min_length=2, max_length=2)]
    rates: Annotated[list[FinitePositive], Field(min_length=LEAST_RATES)]
    widen: Annotated[int, Field(ge=0, le=10)]
    next_budget: Budget
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    out: NonEmpty
    picture: Literal["png", "svg"]

    def __post_init__(self) -> None:
        for key in ("budgets", "rates"):
            values = getattr(self, key)
            if values != sorted(set(values)):
                raise ConfigError(f"ladder.{key} must rise: {', '.join(map(str, values))}")
        for number, size in enumerate(self.sizes):
            if size in self.sizes[:number]:
                raise ConfigError(f"ladder.sizes: {shorten(size)} is there twice")
        low, high = self.tokens_per_parameter
        if low >= high:
            raise ConfigError(
                f"ladder.tokens_per_parameter ({low:g}, {high:g}): the first must be below the"
                " second"
            )
        if self.next_budget <= self.budgets[-1]:
            raise ConfigError(
                f"ladder.next_budget ({self.next_budget:g}) must be above all of ladder.budgets (up"
                f" to {self.budgets[-1]:g})"
            )


def seeds_of(*, seeds: Seeds) -> int:
    """How many seeds each size and rate is trained with."""
    return seeds
