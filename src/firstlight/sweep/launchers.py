"""Launchers of Hydra's: how many trials one is given at once, and what it raises."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from firstlight.errors import ConfigError, Error, RunError, one_line, shown

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]
"""`launch` of a Hydra launcher: the overrides of each job, and the number of the first job."""

BATCH_SIZE = "hydra.sweeper.max_batch_size"
"""The setting that says it for every launcher; Hydra's own sweeper has it, too."""
OWN_SETTINGS = ("n_jobs", "array_parallelism")
"""What launchers call the jobs that they run at once: joblib, and submitit for Slurm."""
ONE_BY_ONE = "BasicLauncher"
"""Hydra's launcher if none is chosen."""


def check_launcher(hydra: DictConfig) -> None:
    """Refuse what `trials_at_once` would, in the section `hydra` of a composed config.

    Raises:
        ConfigError: see there.
    """
    trials_at_once(hydra.launcher, hydra.sweeper.get("max_batch_size"))


def trials_at_once(launcher: DictConfig, batch_size: object) -> int:
    """How many trials the launcher with this config is given at once.

    `batch_size` of them, or else as many as the launcher says that it runs at a time; 1 if it does
    not say. A negative number of the launcher's stands for as many as there are CPUs.

    Raises:
        ConfigError: `batch_size` is not a number of trials, or more than the launcher can run.
    """
    if batch_size is not None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"{BATCH_SIZE}: expected int >= 1, got {shown(batch_size)}")
        if batch_size > 1 and _makes_one(launcher):
            raise ConfigError(
                f"{BATCH_SIZE} ({batch_size}): hydra/launcher=basic makes one trial at a time;"
                " choose hydra/launcher=joblib, or another that starts processes"
            )
        return batch_size
    for name in OWN_SETTINGS:
        number = launcher.get(name)
        if isinstance(number, int) and number != 0:
            return number if number > 0 else os.cpu_count() or 1
    return 1


class LauncherError(RunError):
    """A launcher has not brought back what it was given."""


def with_losses_told(launch: Launch, launcher: DictConfig) -> Launch:
    """`launch`, which raises a LauncherError in place of an error of a launcher with processes.

    Hydra's own launcher starts none: what that raises is a fault of ours, and stays as it is.
    """
    if _makes_one(launcher):
        return launch

    def launched(jobs: Sequence[Sequence[str]], first: int) -> Sequence[Any]:
        try:
            return launch(jobs, first)
        except Error:
            raise
        # A job that was killed, or ran out of the launcher's own time (submitit's timeout_min), is
        # an exception of the launcher's, each with a type of its own; the first one hides the
        # results of all jobs that it was launched with.
        except Exception as error:
            raise LauncherError(
                f"hydra/launcher: {type(error).__name__}: {one_line(error)}"
            ) from error

    return launched


def _makes_one(launcher: DictConfig) -> bool:
    return str(launcher.get("_target_")).endswith(f".{ONE_BY_ONE}")
