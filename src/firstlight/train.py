"""`firstlight train`: check the config, build it, fit."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from firstlight.config import build, check_config
from firstlight.training.fit import fit


def main(config: DictConfig) -> float:
    """Train; return the validation loss, for sweepers to minimise."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        config.output_dir = hydra.runtime.output_dir
    plain = check_config(config, fit)
    fitted = fit(**build(plain), config=plain, overrides=list(hydra.overrides.task))
    return fitted.metrics["val/loss"]
