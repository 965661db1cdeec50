"""`firstlight train -m` begins a sweep; `firstlight sweep` says how far one is, and goes on with it."""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from firstlight.compose import conf_dir, quoted
from firstlight.config import NonEmpty, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, one_line
from firstlight.output import write
from firstlight.sweeping import TRIAL, report
from firstlight.sweeping.ledger import Ledger
from firstlight.sweeping.record import RECORD, read_record
from firstlight.weights.find import newest_file

Action = Literal["status", "resume", "retry", "best"]


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as the settings of `firstlight sweep`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, _settings)


def _settings(*, action: Action, folder: NonEmpty, format: Literal["text", "json"]) -> None:
    """See conf/sweep.yaml."""


def main(config: DictConfig) -> Path | None:
    """Do what is asked; the folder of a sweep that is to be gone on with.

    Raises:
        ConfigError: there is no such sweep, or its config has changed.
    """
    plain = arguments(config)
    folder = newest_sweep() if plain["folder"] == "last" else user_path(plain["folder"])
    if plain["action"] in ("resume", "retry"):
        from firstlight import train  # late: it imports torch
        from firstlight.sweeping.plan import complete

        complete(folder, train.arguments)
    ledger = Ledger.open(folder)
    try:
        if plain["action"] == "retry":
            numbers = ledger.retry()
            report.say(f"{len(numbers)} failed trials are planned again" if numbers else "no trial has failed")
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
    return folder if plain["action"] in ("resume", "retry") else None


def begin(args: Namespace) -> None:
    """Plan the sweep of a command line, and make its trials.

    Raises:
        ConfigError: it is not valid.
        RunError: trials have failed.
    """
    from firstlight import train  # late: it imports torch
    from firstlight.sweeping.plan import planned

    of_hydra = [word for word in args.overrides if word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    words = [word for word in args.overrides if word not in of_hydra]
    run(planned(words, args.config_dir, train.arguments), of_hydra)


def run(folder: Path, of_hydra: list[str]) -> None:
    """Make the trials of a sweep that was planned, with Hydra's launcher; `of_hydra` are overrides that choose it.

    Raises:
        ConfigError: there is no such launcher.
        RunError: trials have failed.
    """
    launched_with = sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as they are
    place = f"hydra.sweep.dir={quoted(str(folder.absolute()))}"
    config_dir = read_record(folder).config_dir
    more = ["--config-dir", config_dir] if config_dir else []
    sys.argv = ["firstlight train", "--multirun", *of_hydra, place, "hydra.sweep.subdir=.", *more]
    try:
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")(_make)()
    except HydraException as error:  # a launcher that cannot be had
        raise ConfigError(one_line(error)) from None
    finally:
        sys.argv = launched_with


def _make(config: DictConfig) -> Any:
    from firstlight.sweeping.trial import make_trial

    if TRIAL not in os.environ:
        raise ConfigError("hydra/sweeper: train has a sweeper of its own; leave it out")
    return make_trial(Path(HydraConfig.get().sweep.dir), int(os.environ[TRIAL]), train_trial)


def work(folder: Path, launch: Any, at_once: int) -> None:
    """What Hydra's sweeper does: make the planned trials of the sweep in `folder` with a launcher.

    Raises:
        RunError: trials have failed.
    """
    from firstlight import train
    from firstlight.sweeping.loop import work_on

    work_on(folder, launch, train.arguments, at_once)


def train_trial(words: list[str]) -> int:
    """In the process of a trial: `firstlight train` with `words`; its exit code."""
    from firstlight import cli

    os.setsid()  # Ctrl-C is passed on to it by the sweep
    script = Path(sys.executable).with_name("firstlight")
    program = script if script.is_file() else Path(cli.__file__).with_name("__main__.py")
    sys.argv = [str(program), "train", *words]  # from which Lightning starts the processes of several devices
    return cli.main(["train", *words])


def newest_sweep(root: str = "outputs") -> Path:
    """The sweep below `root` that was begun last.

    Raises:
        ConfigError: there is none.
    """
    record = newest_file(Path(root), f"**/{RECORD}")
    if record is None:
        raise ConfigError(f"folder=last: there is no sweep below {root}/")
    return record.parent
