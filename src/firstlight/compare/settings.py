"""The settings of `firstlight compare`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import NonEmpty, Seed
from firstlight.errors import ConfigError

WINDOWED = ("val/loss", "val/bits_per_byte")
"""Metrics that are measured window by window."""
OF_TOKENS = ("loss", "perplexity")
"""Metrics, of any split, that mean something else with another text or tokenizer."""
OF_TEXT = (*OF_TOKENS, "bits_per_byte")
"""Metrics, of any split, that have another value on another text of the same kind."""
HIGHER_IS_BETTER = ("tokens_per_second", "mfu")


def sign_of(metric: str) -> int:
    """1 for a metric of which lower is better, else -1."""
    return -1 if metric.rpartition("/")[2] in HIGHER_IS_BETTER else 1


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """See conf/compare.yaml, where each is explained."""

    runs: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]
    metric: NonEmpty
    weights: Literal["last", "best"]
    windows: Annotated[int, Field(ge=0, le=10**6)]
    accelerator: NonEmpty
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    resamples: Annotated[int, Field(ge=100, le=10**6)]
    seed: Seed
    storage: NonEmpty | None
    out: NonEmpty | None
    data: dict[str, NonEmpty | list[NonEmpty]] | None = None

    def __post_init__(self) -> None:
        if self.weights == "best" and not self.is_measured:
            raise ConfigError(
                f"weights=best: only {' and '.join(WINDOWED)} are measured with weights, and with windows above 0"
            )

    @property
    def is_measured(self) -> bool:
        """Whether the weights are evaluated; else what the runs logged is taken."""
        return self.windows > 0 and self.metric in WINDOWED

    @property
    def is_of_text(self) -> bool:
        """Whether the metric varies by chance with the text, too."""
        return self.metric.rpartition("/")[2] in OF_TEXT

    @property
    def names(self) -> list[str]:
        return [self.runs] if isinstance(self.runs, str) else self.runs
