"""The settings of `firstlight compare`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import NonEmpty
from firstlight.errors import ConfigError
from firstlight.metrics.splits import is_final


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """See conf/compare.yaml, where each is explained."""

    runs: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]
    metric: NonEmpty
    weights: Literal["last", "best"] | None
    windows: Annotated[int, Field(ge=0, le=10**6)]
    accelerator: NonEmpty
    at: Literal["end", "equal_tokens"] = "end"
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    storage: NonEmpty | None
    out: NonEmpty | None
    data: dict[str, NonEmpty | list[NonEmpty]] | None = None

    def __post_init__(self) -> None:
        if self.weights == "best" and self.windows == 0:
            raise ConfigError("weights=best: windows=0 measures no weights; it must be above 0")
        if self.at == "equal_tokens" and self.weights is not None:
            raise ConfigError(
                f"weights={self.weights}: at=equal_tokens takes what was logged, and measures no"
                " weights; leave it out"
            )
        if self.at == "equal_tokens" and is_final(self.metric):
            raise ConfigError(
                f"metric ({self.metric}): the test split is scored at the end alone, so not"
                f" at=equal_tokens; take val/{self.metric.partition('/')[2]}"
            )

    @property
    def split(self) -> str:
        """The split that the metric is of."""
        return self.metric.partition("/")[0]

    @property
    def takes_best(self) -> bool:
        """Whether the best weights are measured: a run scores its test split with those as well."""
        return self.weights == "best" or (self.weights is None and is_final(self.metric))

    @property
    def measures(self) -> bool:
        """Whether weights are measured if the metric allows it."""
        return self.windows > 0 and self.at == "end"

    @property
    def names(self) -> list[str]:
        return [self.runs] if isinstance(self.runs, str) else self.runs
