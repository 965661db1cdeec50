"""`firstlight train -m` begins a sweep; `firstlight sweep` says how far one is, and resumes it."""

import json
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from firstlight.checkpoints.find import newest_file
from firstlight.compose.hydra_calls import command_line, is_about_hydra
from firstlight.config import NonEmpty, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError
from firstlight.interpolation import as_typed, only_variables
from firstlight.output import say, write
from firstlight.overrides import conf_dir, config_dir, setting
from firstlight.processes import TRIAL, number
from firstlight.sweep import report
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.record import RECORD, read_record
from firstlight.sweep.storage import TOLD
from firstlight.training.process import run_command

Action = Literal["status", "resume", "retry", "best"]


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
    format: Literal["text", "json"],
) -> None:
    """See conf/sweep.yaml."""


@dataclass(frozen=True)
class Planned:
    """A sweep whose trials are to be made, and what the user's own command names of what its files name."""

    folder: Path
    storage: str | None
    variables: list[str] | None = None
    """Of the environment, that its texts may look up; None: all, since they are the command's own."""


def main(config: DictConfig) -> Planned | None:
    """Do what is asked; the sweep that is to be resumed.

    Raises:
        ConfigError: there is no such sweep, its config has changed, or it names what the command does not.
    """
    storage = storage_as_typed(config)
    plain = arguments(config)
    folder = newest_sweep() if plain["folder"] == "last" else user_path(plain["folder"])
    is_resumed = plain["action"] in ("resume", "retry")
    if is_resumed:
        from firstlight.commands import train  # late: it imports torch
        from firstlight.sweep.plan import complete

        with only_variables(plain["variables"]):
            complete(folder, train.arguments, storage=storage, config_dir=config_dir())
    ledger = Ledger.open(folder, storage, read_only=not is_resumed)
    try:
        if plain["action"] == "retry":
            numbers = ledger.retry()
            say(f"{len(numbers)} failed trials are planned again" if numbers else "no trial has failed")
        elif plain["action"] in ("status", "best"):
            found = report.as_data(ledger)
            if plain["action"] == "best" and not found["best"]:
                raise ConfigError(f"{folder}: no point of this sweep is done yet")
            if plain["format"] == "json":
                write(json.dumps(found if plain["action"] == "status" else found["best"]) + "\n")
            else:
                report.show(ledger, best_only=plain["action"] == "best")
    finally:
        ledger.close()
    return Planned(folder, storage, plain["variables"]) if is_resumed else None


def storage_as_typed(config: DictConfig) -> str | None:
    """The key `storage` of a command, with its references to the environment as they were typed."""
    text = OmegaConf.to_container(config, resolve=False)["storage"]  # type: ignore[call-overload,index]
    return None if text is None else as_typed(str(text))


def begin(args: Namespace) -> None:
    """Plan the sweep of a command line, and make its trials.

    Raises:
        ConfigError: it is not valid.
        RunError: trials have failed.
    """
    from firstlight.commands import train  # late: it imports torch
    from firstlight.sweep.plan import planned

    of_hydra = [word for word in args.overrides if is_about_hydra(word)]
    words = [word for word in args.overrides if not is_about_hydra(word)]
    folder = planned(words, args.config_dir, train.arguments)
    run(Planned(folder, read_record(folder).storage), of_hydra)


def run(sweep: Planned, of_hydra: list[str]) -> None:
    """Make the trials of a sweep that was planned, with Hydra's launcher; `of_hydra` are overrides that choose it.

    Raises:
        ConfigError: there is no such launcher.
        RunError: trials have failed.
    """
    with _told(sweep.storage), only_variables(sweep.variables):
        _launch(sweep.folder, of_hydra)


@contextmanager
def _told(storage: str | None) -> Iterator[None]:
    """Within the block, the processes of trials know the storage that the user's own command names."""
    before = os.environ.get(TOLD)
    if storage is not None:
        os.environ[TOLD] = storage
    try:
        yield
    finally:
        os.environ.pop(TOLD, None)
        if before is not None:
            os.environ[TOLD] = before


def _launch(folder: Path, of_hydra: list[str]) -> None:
    place = setting("hydra.sweep.dir", str(folder.absolute()))
    config_dir = read_record(folder).config_dir
    more = ["--config-dir", config_dir] if config_dir else []
    with command_line(["firstlight train", "--multirun", *of_hydra, place, "hydra.sweep.subdir=.", *more]):
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")(_make)()


def _make(config: DictConfig) -> Any:
    from firstlight.sweep.trial import make_trial

    if TRIAL not in os.environ:
        raise ConfigError("hydra/sweeper: train has a sweeper of its own; leave it out")
    return make_trial(Path(HydraConfig.get().sweep.dir), number(TRIAL, 0), train_trial)


def work(folder: Path, launch: Any, at_once: int) -> None:
    """What Hydra's sweeper does: make the planned trials of the sweep in `folder` with a launcher.

    Raises:
        RunError: trials have failed.
    """
    from firstlight.commands import train
    from firstlight.sweep.loop import work_on

    work_on(folder, launch, train.arguments, at_once)


def train_trial(words: list[str]) -> int:
    """In the process of a trial: `firstlight train` with `words`; its exit code."""
    os.setsid()  # Ctrl-C is passed on to it by the sweep
    return run_command(["train", *words])


def newest_sweep(root: str = "outputs") -> Path:
    """The sweep below `root` that was begun last.

    Raises:
        ConfigError: there is none.
    """
    record = newest_file(Path(root), f"**/{RECORD}")
    if record is None:
        raise ConfigError(f"folder=last: there is no sweep below {root}/")
    return record.parent
