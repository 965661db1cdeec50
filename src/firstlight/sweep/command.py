"""`firstlight sweep`, and the sweep that `firstlight train -m` begins."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from firstlight.compose.hydra_calls import command_line, is_about_hydra
from firstlight.conf_files import conf_dir, config_dir
from firstlight.config import NonEmpty, check_config
from firstlight.errors import ConfigError
from firstlight.interpolation import as_typed, only_variables
from firstlight.output import as_json, say, write
from firstlight.overrides import setting
from firstlight.processes import TRIAL, number
from firstlight.sweep import report
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.preloaded import SERVER
from firstlight.sweep.record import read_sweep, sweep_named
from firstlight.sweep.storage import TOLD
from firstlight.training.process import begin_server

Action = Literal["status", "resume", "retry", "best", "extend"]


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as the settings of `firstlight sweep`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, _settings)


def _settings(
    *,
    action: Action,
    folder: NonEmpty,
    storage: NonEmpty | None,
    variables: list[NonEmpty],
    metric: NonEmpty | None,
    format: Literal["text", "json"],
) -> None:
    """See conf/sweep.yaml."""


@dataclass(frozen=True)
class Planned:
    """A planned sweep, and what of its files the user's own command names."""

    folder: Path
    storage: str | None
    variables: list[str] | None = None
    """Environment variables that its texts may look up. None: all, as the texts are the user's."""


def main(config: DictConfig, added: list[str]) -> Planned | None:
    """Do what is asked; return the sweep if it is to be resumed.

    `added` is what the command adds to the sweep, ready for Hydra's grammar.

    Raises:
        ConfigError: the sweep does not exist, its config has changed, or it names a storage or a
            folder of configs that the command does not name; or nothing can be added.
    """
    storage = storage_as_typed(config)
    plain = arguments(config)
    is_shown = plain["action"] in ("status", "best")
    if not is_shown:
        _check_shows_nothing(plain)
    folder = sweep_named(plain["folder"])
    if is_shown:
        _show(folder, storage, plain)
        return None
    if plain["action"] == "extend" and not added:
        raise ConfigError(
            "extend: say what to add: values (model=gpt2_small), seeds=3, or sweep.trials=40"
        )
    from firstlight.sweep.planning import complete  # late: it imports torch

    with only_variables(plain["variables"]):
        complete(folder, storage=storage, config_dir=config_dir(), words=added)
    if plain["action"] == "retry":
        with closing(Ledger.open(folder, storage)) as ledger:
            numbers = ledger.retry()
        if numbers:
            say(f"failed trials that are planned again: {len(numbers)}")
        else:
            say("no trial has failed")
    return Planned(folder, storage, plain["variables"])


def _check_shows_nothing(plain: dict[str, Any]) -> None:
    """Refuse what says how a sweep is shown, for an action that makes trials.

    Raises:
        ConfigError: such a setting is given.
    """
    problems: list[str] = []
    for key, default in (("metric", None), ("format", "text")):
        if plain[key] != default:
            problems.append(f"{key}: for status and best, not for {plain['action']}; leave it out")
    if problems:
        raise ConfigError("\n".join(problems))


def _show(folder: Path, storage: str | None, plain: dict[str, Any]) -> None:
    is_best = plain["action"] == "best"
    with closing(Ledger.open(folder, storage, read_only=True)) as ledger:
        if is_best and not report.has_best(ledger):
            raise ConfigError(f"{folder}: no point of this sweep is done yet")
        if plain["format"] == "text":
            report.show(ledger, best_only=is_best, metric=plain["metric"])
        else:
            # Only what is asked for: the status reads the log of each run.
            data_of = report.best_data if is_best else report.status_data
            write(as_json(data_of(ledger, plain["metric"])) + "\n")


def storage_as_typed(config: DictConfig) -> str | None:
    """The key `storage` of a command, with its references to the environment as they were typed."""
    # Not resolved: it is compared with the text in sweep.yaml, which must not hold a password.
    text = OmegaConf.to_container(config, resolve=False)["storage"]  # type: ignore[call-overload,index]
    return None if text is None else as_typed(str(text))


def plan(overrides: list[str], config_dir: str | None) -> Planned:
    """Plan the sweep that `overrides`, ready for Hydra's grammar, ask for.

    Raises:
        ConfigError: it is not valid.
    """
    # The launcher that makes its trials from this process: the imports of both are at once.
    if not any(is_about_hydra(word) for word in overrides):
        begin_server(SERVER)
    from firstlight.sweep.planning import planned  # late: it imports torch

    folder = planned([word for word in overrides if not is_about_hydra(word)], config_dir)
    return Planned(folder, read_sweep(folder).storage)


def run_sweep(sweep: Planned, overrides: list[str], *, with_logging: bool = True) -> None:
    """Make the trials of a planned sweep with Hydra's launcher, which `overrides` may choose.

    Without `with_logging` Python's logging stays as it is.

    Raises:
        ConfigError: no such launcher.
        RunError: trials have failed.
        Stopped: a signal has stopped the sweep.
    """
    of_hydra = [word for word in overrides if is_about_hydra(word)]
    place = setting("hydra.sweep.dir", str(sweep.folder.absolute()))
    words = ["firstlight train", "--multirun", *of_hydra, place]
    # A trial makes its folder itself; with "." Hydra makes none for a job.
    words.append("hydra.sweep.subdir=.")
    if not with_logging:
        words += ["hydra.job_logging.root=null", "hydra.hydra_logging.root=null"]
    config_dir = read_sweep(sweep.folder).config_dir
    if config_dir is not None:
        words += ["--config-dir", config_dir]
    # Hydra starts the launcher that `of_hydra` chooses, and our sweeper (hydra_plugins) in it.
    with _told(sweep.storage), only_variables(sweep.variables), command_line(words):
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")(_make)()


@contextmanager
def _told(storage: str | None) -> Iterator[None]:
    """Tell the processes of trials, within the block, which storage the user's command names."""
    if storage is not None:
        os.environ[TOLD] = storage
    try:
        yield
    finally:
        os.environ.pop(TOLD, None)


def _make(config: DictConfig) -> Any:
    """What Hydra's launcher calls for each trial."""
    from firstlight.sweep.trial import make_trial  # late: it imports torch

    # Only our sweeper sets it: another one, chosen on the command line, has called this.
    if TRIAL not in os.environ:
        raise ConfigError(
            "hydra/sweeper: cannot be chosen, train has its own sweeper; leave it out"
        )
    return make_trial(Path(HydraConfig.get().sweep.dir), number(TRIAL, 0))
