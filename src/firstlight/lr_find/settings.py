"""What `firstlight lr-find` is asked for."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import FinitePositive, NonEmpty
from firstlight.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RangeSettings:
    """See conf/lr-find.yaml, where each is explained."""

    steps: Annotated[int, Field(ge=20, le=10**6)]
    lowest: FinitePositive
    highest: FinitePositive
    stop_at: Annotated[float, Field(gt=1.0, le=1000.0)]
    out: NonEmpty | None
    picture: Literal["png", "svg"]

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise ConfigError(
                f"lr_find.highest ({self.highest:g}) must be above lr_find.lowest"
                f" ({self.lowest:g}): the rate rises from one to the other"
            )
