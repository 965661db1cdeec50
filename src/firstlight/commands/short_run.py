"""Short runs of a user's config, as `firstlight bench` and `firstlight verify` make them."""

from typing import Any

from firstlight.config import argument
from firstlight.errors import ConfigError
from firstlight.runs.run_config import shortened_warmup


def check_new(config: dict[str, Any], verb: str) -> None:
    """Refuse a config of which `verb` cannot make short runs.

    Raises:
        ConfigError: it resumes a run, or has several processes.
    """
    if config["resume"] is not None:
        raise ConfigError(f"resume: {verb} makes new runs; leave resume out")
    trainer = config["trainer"]
    processes = argument(trainer, "devices") * argument(trainer, "num_nodes")
    if processes != 1:
        raise ConfigError(
            f"trainer.devices ({processes} in all) must be 1: {verb} makes runs of one process"
        )


def shortened(config: dict[str, Any], *, steps: int, eval_every_n_steps: int) -> dict[str, Any]:
    """The changes to `config` that end its run after `steps`."""
    # max_epochs and max_tokens would be two lengths more, and only one may be given.
    trainer = {
        "max_steps": steps,
        "max_epochs": None,
        "max_tokens": None,
        "eval_every_n_steps": eval_every_n_steps,
    }
    return {"trainer": trainer, "scheduler": shortened_warmup(config["scheduler"], steps)}


def shortened_to_measure(
    config: dict[str, Any], *, steps: int, eval_batches: int
) -> dict[str, Any]:
    """As `shortened`, for a run whose steps are measured: evaluated briefly, when they are made.

    That is on `eval_batches` of each split, and the test split is not scored.
    """
    changes = shortened(config, steps=steps, eval_every_n_steps=steps)
    changes["trainer"]["eval_first_step"] = None
    changes["data"] = {
        "eval_batches": eval_batches,
        "untrained_eval_batches": 1,
        "test_batches": 0,
    }
    return changes
