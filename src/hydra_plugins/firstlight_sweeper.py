"""Hydra's way to firstlight's sweeps: the hydra/sweeper of `firstlight train -m`.

Hydra finds it in this namespace, and imports it whenever it starts: nothing heavy may be imported
here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class FirstlightSweeperConf:
    """Its settings beside the section `sweep` of the config; the first is Hydra's own as well."""

    _target_: str = "hydra_plugins.firstlight_sweeper.FirstlightSweeper"
    max_batch_size: Any = None
    """Trials that the launcher is given at once; null: as many as its own settings say."""
    as_part: Any = False
    """True: a line for each trial, and no table, as for the sweeps that a ladder is made of."""


ConfigStore.instance().store(
    group="hydra/sweeper", name="firstlight", node=FirstlightSweeperConf, provider="firstlight"
)


class FirstlightSweeper(Sweeper):
    """Makes the planned trials of the sweep in `hydra.sweep.dir`, with any of Hydra's launchers."""

    def __init__(self, max_batch_size: Any, as_part: Any) -> None:
        self.max_batch_size, self.as_part = max_batch_size, as_part
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
        from firstlight.sweep.launchers import trials_at_once, with_losses_told
        from firstlight.sweep.loop import work_on

        assert self.config is not None and self.launcher is not None
        launcher = self.config.hydra.launcher
        launch = with_losses_told(self.launcher.launch, launcher)
        at_once = trials_at_once(launcher, self.max_batch_size)
        folder = Path(self.config.hydra.sweep.dir)
        work_on(folder, launch, at_once, as_part=self.as_part is True)
