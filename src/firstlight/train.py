"""`firstlight train`: check the config, build it, fit."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from firstlight.compose import parse_overrides
from firstlight.config import build, check_config
from firstlight.errors import ConfigError
from firstlight.training.fit import fit
from firstlight.training.run_folder import read_config
from firstlight.weights.checkpoint import newest_run

CHANGEABLE = ("trainer.", "callbacks.", "logger.")
"""What a continued run may change; the rest would change what has already happened."""


def main(config: DictConfig) -> float:
    """Train; return the validation loss, for sweepers to minimise."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    if config.resume is not None:
        config = resumed_config(str(config.resume), overrides)
    elif hydra.mode == RunMode.MULTIRUN:
        config.output_dir = hydra.runtime.output_dir
    plain = check_config(config, fit)
    fitted = fit(**build(plain), config=plain, overrides=overrides)
    return fitted.metrics["val/loss"]


def resumed_config(name: str, overrides: list[str]) -> DictConfig:
    """The composed config of the run `name`, with the overrides that a continued run may have.

    Raises:
        ConfigError: there is no such run, or an override would change its past.
    """
    folder = newest_run() if name == "last" else Path(name).expanduser()
    stored: dict[str, Any] = read_config(folder)
    config = OmegaConf.create(stored)
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if key == "resume":
            continue
        if not key.startswith(CHANGEABLE):
            raise ConfigError(
                f"{key}: a continued run keeps its own; only {', '.join(c + '*' for c in CHANGEABLE)} can be changed"
            )
        if override.is_delete():
            parent, _, last = key.rpartition(".")
            OmegaConf.select(config, parent).pop(last, None)
        else:
            OmegaConf.update(config, key, override.value(), force_add=True)
    config.resume = str(folder)
    return config
