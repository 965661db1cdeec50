"""The settings of `firstlight compare`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import NonEmpty
from firstlight.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """See conf/compare.yaml, where each is explained."""

    runs: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]
    metric: NonEmpty
    weights: Literal["last", "best"]
    windows: Annotated[int, Field(ge=0, le=10**6)]
    accelerator: NonEmpty
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    storage: NonEmpty | None
    out: NonEmpty | None
    data: dict[str, NonEmpty | list[NonEmpty]] | None = None

    def __post_init__(self) -> None:
        if self.weights == "best" and self.windows == 0:
            raise ConfigError("weights=best: windows=0 measures no weights; it must be above 0")

    @property
    def names(self) -> list[str]:
        return [self.runs] if isinstance(self.runs, str) else self.runs
