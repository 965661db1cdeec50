"""Hydra's way to firstlight's sweeps: the hydra/sweeper of `firstlight train -m`.

Hydra finds it in this namespace, and imports it whenever it starts: nothing heavy may be imported
here.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class FirstlightSweeperConf:
    """Without settings of its own: they are the section `sweep` of the config."""

    _target_: str = "hydra_plugins.firstlight_sweeper.FirstlightSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="firstlight", node=FirstlightSweeperConf, provider="firstlight"
)


class FirstlightSweeper(Sweeper):
    """Makes the planned trials of the sweep in `hydra.sweep.dir`, with any of Hydra's launchers."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from firstlight.sweep.loop import work_on

        assert self.config is not None and self.launcher is not None
        # joblib's setting; -1: as many as there are CPUs.
        at_once = OmegaConf.select(self.config, "hydra.launcher.n_jobs") or 1
        if at_once < 0:
            at_once = os.cpu_count() or 1
        work_on(Path(self.config.hydra.sweep.dir), self.launcher.launch, at_once)
