"""What `firstlight plan` is asked for."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """See conf/plan.yaml, where each is explained."""

    steps: Annotated[int, Field(ge=0, le=1000)]
    format: Literal["text", "json"]
