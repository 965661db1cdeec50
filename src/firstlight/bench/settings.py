"""What is measured, and what that makes of a run."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from firstlight.config import FinitePositive, Steps
from firstlight.errors import ConfigError
from firstlight.runs.run_config import shortened_warmup


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See conf/bench.yaml, where each is explained."""

    steps: Annotated[int, Field(ge=2, le=10**6)]
    warmup_steps: Annotated[int, Field(ge=1, le=10**6)]
    rounds: Annotated[int, Field(ge=1, le=100)]
    eval_batches: Steps
    compile: bool | None
    most_batch: Annotated[int, Field(ge=1, le=1024)]
    tolerance: FinitePositive


def check_measurable(config: dict[str, Any]) -> None:
    """Refuse a run that cannot be measured.

    Raises:
        ConfigError: what is the matter with it.
    """
    if config["resume"] is not None:
        raise ConfigError("resume: bench makes new runs; leave resume out")
    if (n := config["trainer"].get("devices", 1) * config["trainer"].get("num_nodes", 1)) != 1:
        raise ConfigError(f"trainer.devices ({n} in all) must be 1: bench measures one process")


def shortening(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The changes of `config` that make a short run of it, with one evaluation, at its end."""
    steps = settings.warmup_steps + settings.steps
    trainer = {
        "max_steps": steps,
        "max_epochs": None,
        "max_tokens": None,
        "eval_every_n_steps": steps,
        "eval_first_step": None,
    }
    return {
        "trainer": trainer,
        "data": {"eval_batches": settings.eval_batches, "untrained_eval_batches": 1},
        "scheduler": shortened_warmup(config["scheduler"], steps),
    }
