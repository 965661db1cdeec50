"""What `firstlight coord-check` is asked for."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config import NonEmpty
from firstlight.errors import ConfigError

Width = Annotated[int, Field(gt=0, le=2**16)]


@dataclass(frozen=True, kw_only=True)
class CoordSettings:
    """See conf/coord-check.yaml, where each is explained."""

    widths: Annotated[list[Width], Field(min_length=2, max_length=20)]
    steps: Annotated[int, Field(gt=0, le=1000)]
    seeds: Annotated[int, Field(gt=0, le=100)]
    grow: Annotated[list[NonEmpty], Field(min_length=1)]
    out: NonEmpty | None
    picture: Literal["png", "svg"]

    def __post_init__(self) -> None:
        if sorted(set(self.widths)) != self.widths:
            raise ConfigError(
                f"coord_check.widths ({self.widths}) must rise, each once: [64,128,256]"
            )
