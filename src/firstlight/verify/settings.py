"""What is verified, and what that makes of a run."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from firstlight.config import FinitePositive, Seed, Steps, build
from firstlight.errors import ConfigError
from firstlight.runs.run_config import shortened_warmup

Check = Literal["determinism", "kills", "devices"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See conf/verify.yaml, where each is explained."""

    checks: Annotated[list[Check], Field(min_length=1)]
    steps: Annotated[int, Field(ge=2, le=10**6)]
    eval_every_n_steps: Steps
    save_every_n_steps: Steps
    kills: Annotated[int, Field(ge=0, le=10**4)]
    seed: Seed
    tolerance: FinitePositive
    keep: bool


def check_verifiable(config: dict[str, Any]) -> None:
    """Refuse a run that cannot be continued, or does not leave behind what is compared.

    Raises:
        ConfigError: what is the matter with it.
    """
    if config["resume"] is not None:
        raise ConfigError("resume: verify makes new runs; leave resume out")
    if not build(config["order"], "order").resumable:
        raise ConfigError(
            "order: a run with order=book cannot be continued, its place is the state of torch's global generator; "
            "there is nothing to verify"
        )
    if (n := config["trainer"].get("devices", 1) * config["trainer"].get("num_nodes", 1)) != 1:
        raise ConfigError(f"trainer.devices ({n} in all) must be 1: verify kills runs of one process")
    for section, name, use in (("callbacks", "checkpoint", "continued from"), ("logger", "csv", "compared")):
        if name not in (config.get(section) or {}):
            raise ConfigError(f"{section}.{name} is needed: it writes what is {use}; do not take it away")


def shortening(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The changes of `config` that make a short run of it, in which much happens."""
    trainer = {
        "max_steps": settings.steps,
        "max_epochs": None,
        "max_tokens": None,
        "eval_every_n_steps": settings.eval_every_n_steps,
        "log_every_n_steps": 1,
    }
    return {
        "trainer": trainer,
        "callbacks": {"checkpoint": {"every_n_steps": settings.save_every_n_steps}},
        "scheduler": shortened_warmup(config["scheduler"], settings.steps),
    }
