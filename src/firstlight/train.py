"""`firstlight train`: check the config, build it, fit."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.config import build, check_config
from firstlight.errors import ConfigError, FinishedError, shown
from firstlight.interpolation import as_typed, check_kept
from firstlight.output import note
from firstlight.overrides import text_keys
from firstlight.processes import number
from firstlight.sweeping import SWEEP, TRIAL
from firstlight.training.allocation import keep_freed_memory
from firstlight.training.fit import fit
from firstlight.training.places import with_files
from firstlight.training.run_config import RunConfig
from firstlight.training.run_folder import AUTO, CONFIG, note_data

SET_BY_FIT = {
    "data": "the data of a run are its section data",
    "logger": "loggers are the section logger: logger=[csv,tensorboard]",
    "callbacks": "callbacks are the section callbacks: callbacks=[default,early_stopping]",
    "default_root_dir": "the folder of a run is output_dir",
    "enable_progress_bar": "take the bar away with ~callbacks.progress",
    "enable_checkpointing": "take checkpoints away with ~callbacks.checkpoint",
}
"""Arguments of the trainer that a config cannot set, and what can."""


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain arguments of `fit`.

    Raises:
        ConfigError: it is not valid.
    """
    with open_dict(config):
        section, seeds = config.pop("sweep", None), config.pop("seeds", 1)
    if isinstance(section, DictConfig) and (section.get("params") or seeds != 1):
        raise ConfigError("sweep, seeds: several runs make a sweep; add -m")
    plain = check_config(config, fit)
    if given := next((key for key in SET_BY_FIT if key in plain["trainer"]), None):
        raise ConfigError(f"trainer.{given}: {SET_BY_FIT[given]}")
    return plain


def arguments_with(config: DictConfig, name: str, entry: Callable[..., Any]) -> tuple[RunConfig, dict[str, Any]]:
    """The composed config of a run and, apart, its section `name` as arguments of `entry`.

    Raises:
        ConfigError: they are not valid, with the mistakes of both.
    """
    with open_dict(config):
        section = config.pop(name)
    if not isinstance(section, DictConfig):
        raise ConfigError(f"{name}: expected a section, got {shown(section)}")
    checked, problems = [], []
    for check in (partial(arguments, config), partial(check_config, section, entry, name)):
        try:
            checked.append(check())
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    plain, values = checked
    return RunConfig(plain, check_kept(config, plain)), values


def main(config: DictConfig, changes: list[str] | None = None) -> float | None:
    """Train; return the validation loss, for sweepers to minimise. `changes` are the overrides of a continued run.

    Of a run that is finished nothing but where its text is can be changed; then there is no loss to return.
    """
    plain = arguments(config)
    stored = check_kept(config, plain)
    given = changes if changes is not None else OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    keep_freed_memory()
    resumed = Path(plain["resume"]) if plain["resume"] not in (None, AUTO) else None
    built = build(with_files(plain, resumed))  # what is stored keeps its paths as they were given
    others: list[Path] = []
    if SWEEP in os.environ:
        others = [file.parents[1] for file in sorted(Path(os.environ[SWEEP]).glob(f"*/{CONFIG}"))]
        from firstlight.sweeping.pruning import Pruning  # late: only trials need Optuna

        pruning = Pruning(sweep=os.environ[SWEEP], number=number(TRIAL, 0))
        built["callbacks"] = {**(built["callbacks"] or {}), "pruning": pruning}
    kept = [as_typed(str(override)) for override in given or () if str(override) != f"resume={AUTO}"]
    try:
        fitted = fit(stored, kept, others, **built)
    except FinishedError as error:  # raised when the text had been found to be the same
        given_keys = {word.partition("=")[0].lstrip("+") for word in changes or ()}
        if resumed is None or not any(key.startswith("data.") for key in given_keys & text_keys().keys()):
            raise
        note_data(resumed, stored["data"])
        note(f"{str(error).removeprefix('resume: ')}; where its text is has been noted")
        return None
    return fitted.metrics["val/loss"]
