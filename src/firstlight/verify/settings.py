"""What is verified, and what that makes of a run."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from firstlight.commands.short_run import check_new, shortened
from firstlight.config import FinitePositive, Seed, Steps, build
from firstlight.errors import ConfigError

Check = Literal["determinism", "kills", "devices"]


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
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
    """Refuse a run that cannot be resumed, or does not write what is compared.

    Raises:
        ConfigError: what is wrong with it.
    """
    check_new(config, "verify")
    if not build(config["order"], "order").resumable:
        raise ConfigError(
            "order: a run with order=book cannot be resumed, as its place is the state of torch's"
            " global generator; choose another order"
        )
    for section, name, use in (
        ("callbacks", "checkpoint", "resumed"),
        ("logger", "csv", "compared"),
    ):
        if name not in (config.get(section) or {}):
            raise ConfigError(
                f"{section}.{name} is needed: it writes what is {use}; do not remove it"
            )


def verify_changes(config: dict[str, Any], settings: VerifySettings) -> dict[str, Any]:
    """The changes of `config` that make a short run of it, in which much happens."""
    changes = shortened(
        config, steps=settings.steps, eval_every_n_steps=settings.eval_every_n_steps
    )
    # Every step in the logs: a difference is found at the step where it arises.
    changes["trainer"]["log_every_n_steps"] = 1
    changes["callbacks"] = {"checkpoint": {"every_n_steps": settings.save_every_n_steps}}
    return changes
