"""What is verified, and what that makes of the config of a run."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from firstlight.config import FinitePositive, Seed, build
from firstlight.errors import ConfigError

Check = Literal["determinism", "kills", "devices"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See conf/verify.yaml, where each is explained."""

    checks: Annotated[list[Check], Field(min_length=1)]
    steps: Annotated[int, Field(ge=2)]
    eval_every_n_steps: PositiveInt
    save_every_n_steps: PositiveInt
    kills: NonNegativeInt
    seed: Seed
    tolerance: FinitePositive
    keep: bool


def shortened(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """`config`, a whole run, as the short one that is made again and again.

    Raises:
        ConfigError: such a run cannot be continued, or does not leave behind what is compared.
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
    trainer = {
        "max_steps": settings.steps,
        "max_epochs": None,
        "max_tokens": None,
        "eval_every_n_steps": settings.eval_every_n_steps,
        "log_every_n_steps": 1,
    }
    checkpoint = config["callbacks"]["checkpoint"] | {"every_n_steps": settings.save_every_n_steps}
    scheduler = config["scheduler"]
    if scheduler.get("warmup_steps", 0) >= settings.steps:
        scheduler = scheduler | {"warmup_steps": settings.steps // 4}
    return config | {
        "trainer": config["trainer"] | trainer,
        "callbacks": config["callbacks"] | {"checkpoint": checkpoint},
        "scheduler": scheduler,
    }
