"""`firstlight train`: check the config, build it, fit."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from firstlight.conf_files import config_dir, path_keys
from firstlight.config import build, check_config, take
from firstlight.errors import ConfigError, FinishedError, shown
from firstlight.interpolation import as_typed, check_kept
from firstlight.output import note
from firstlight.processes import trial
from firstlight.runs.places import with_files
from firstlight.runs.run_config import RunConfig
from firstlight.runs.run_folder import AUTO, CONFIG
from firstlight.runs.writer import note_data
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit
from firstlight.training.peers import Peers
from firstlight.training.start import take_same_model


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as fields of an `Experiment`; return it as plain data.

    Raises:
        ConfigError: the config is not valid.
    """
    # First: the section of model=same must be there before the config is checked.
    take_same_model(config)
    # Only `train -m` uses these two; for one run they must be at their defaults.
    section, seeds = take(config, "sweep"), take(config, "seeds", 1)
    if isinstance(section, DictConfig) and (take(section, "params") or seeds != 1):
        raise ConfigError("sweep, seeds: these are for a sweep of several runs; add -m")
    return check_config(config, Experiment)


def arguments_with(
    config: DictConfig, entries: Mapping[str, Callable[..., Any]]
) -> tuple[RunConfig, dict[str, dict[str, Any]]]:
    """Check the config of a run and, apart from it, its sections as arguments of `entries`.

    Raises:
        ConfigError: one is not valid; the message lists the mistakes of all.
    """
    checks: dict[str, Callable[[], Any]] = {}
    for name, entry in entries.items():
        section = take(config, name)
        if not isinstance(section, DictConfig):
            raise ConfigError(f"{name}: expected a section, got {shown(section)}")
        checks[name] = partial(check_config, section, entry, name)
    checked: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    # Check all before raising, so that all mistakes are told at once.
    for name, check in {"": partial(arguments, config), **checks}.items():
        try:
            checked[name] = check()
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    plain = checked.pop("")
    return RunConfig(plain, check_kept(config, plain)), checked


def main(
    config: DictConfig,
    overrides: list[str],
    callbacks: Mapping[str, Callback],
    peers: Peers | None = None,
) -> Path:
    """Train, with `callbacks` in addition to those in the config; return the run folder.

    `overrides` are the words of the command line, to be stored with the run; `peers` are the
    processes of a run of several.

    Raises:
        ConfigError: the config is not valid, or the run cannot begin or be resumed.
        RunError: the run failed.
    """
    plain = arguments(config)
    # Before anything is built: what may not come from the environment is refused first.
    stored = check_kept(config, plain)
    resumed = Path(plain["resume"]) if plain["resume"] not in (None, AUTO) else None
    # Only what is built has absolute paths; the stored config keeps them as they were given.
    built = build(with_files(plain, resumed))
    built["callbacks"] = {**(built.get("callbacks") or {}), **callbacks}
    # The other trials of a sweep, which train on the same text.
    siblings: list[Path] = []
    if (of_sweep := trial()) is not None:
        siblings = [file.parents[1] for file in sorted(of_sweep.sweep.glob(f"*/{CONFIG}"))]
    kept = [as_typed(override) for override in overrides if override != f"resume={AUTO}"]
    try:
        return fit(Experiment(**built), stored, kept, siblings, peers).folder
    except FinishedError as error:
        # Of a finished run, only the path of its text can be changed. `fit` has checked by now that
        # it is the same text.
        given = {word.partition("=")[0].lstrip("+") for word in overrides}
        if resumed is None or not given & path_keys(config_dir()):
            raise
        note_data(resumed, stored["data"])
        note(f"{str(error).removeprefix('resume: ')}; the new place of its text is recorded")
        return resumed
