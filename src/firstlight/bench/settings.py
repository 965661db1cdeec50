"""What is measured, and what that makes of a run."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from firstlight.commands.short_run import shortened_to_measure
from firstlight.config import FinitePositive, Steps


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """See conf/bench.yaml, where each is explained."""

    steps: Annotated[int, Field(ge=2, le=10**6)]
    warmup_steps: Annotated[int, Field(ge=1, le=10**6)]
    rounds: Annotated[int, Field(ge=1, le=100)]
    eval_batches: Steps
    compile: bool | None
    most_batch: Annotated[int, Field(ge=1, le=1024)]
    tolerance: FinitePositive


def bench_changes(config: dict[str, Any], settings: BenchSettings) -> dict[str, Any]:
    """The changes of `config` for a short run of it, evaluated once, at the end."""
    steps = settings.warmup_steps + settings.steps
    # Evaluations take time that is not training; the one at the end compares the rungs' losses.
    return shortened_to_measure(config, steps=steps, eval_batches=settings.eval_batches)
