"""Run a verb: options and overrides, help, the composed config, and then the verb's `main`.

Nothing here imports torch, so that help and mistakes are answered at once.
"""

import importlib
import os
from argparse import Namespace
from types import ModuleType
from typing import Any

import hydra
from omegaconf import DictConfig

from firstlight import output, processes
from firstlight.compose.arguments import parse_arguments
from firstlight.compose.compose import check_single_values, check_trials, compose_config, to_yaml
from firstlight.compose.explain import explained
from firstlight.compose.hydra_calls import command_line, is_about_hydra, settings_of_hydra
from firstlight.errors import ConfigError, FinishedError, printable_lines
from firstlight.overrides import conf_dir, using_config_dir

PACKAGES = ("verify", "sweep", "compare", "bench")
"""Verbs that are packages of their own; the others are modules of `commands`."""


def run(verb: str, purpose: str, words: list[str]) -> None:
    """Run `firstlight VERB WORDS`; `purpose` describes the verb in its help.

    Raises:
        ConfigError: a mistake in the words.
        RunError: the run failed.
    """
    from firstlight.runs.environment import working_folder

    # Hydra asks for it, whatever the verb.
    if working_folder() is None:
        raise ConfigError(
            "the working folder is not available (was it removed?); change to another one with cd"
        )
    args = parse_arguments(verb, words)
    if args.multirun and verb != "train":
        raise ConfigError(f"{verb}: -m is for train only; call {verb} once for each value")
    with using_config_dir(args.config_dir):
        if args.help:
            from firstlight.compose.help import help_text

            output.write(help_text(verb, purpose, args.overrides, args.config_dir))
        elif args.info or args.shell_completion or args.cfg in ("hydra", "all"):
            _let_hydra_show(verb, args)
        elif verb == "train":
            _train(args)
        elif args.cfg:
            _show(_composed(verb, args.overrides, args), args)
        elif verb == "sweep":
            _sweep(args)
        else:
            with settings_of_hydra(_composed(verb, args.overrides, args)) as config:
                _command(verb).main(config)


def _command(verb: str) -> ModuleType:
    """Import the module of a verb, with its `main`; late, as most of them need torch."""
    if verb in PACKAGES:
        return importlib.import_module(f"firstlight.{verb}.command")
    return importlib.import_module(f"firstlight.commands.{verb}")


def _composed(verb: str, overrides: list[str], args: Namespace) -> DictConfig:
    """Compose the config of a command that is no sweep, with Hydra's own section."""
    check_single_values(overrides)
    return compose_config(verb, overrides, args.config_dir, with_hydra=True)


def _show(composed: DictConfig, args: Namespace) -> None:
    """Print a composed config, for --cfg job."""
    with settings_of_hydra(composed) as config:
        output.write(printable_lines(to_yaml(config, args.package, resolve=args.resolve)))


def _let_hydra_show(verb: str, args: Namespace) -> None:
    """Let Hydra print what only Hydra knows: --info, --shell-completion, --cfg hydra."""

    def never_called(config: DictConfig) -> None:
        raise AssertionError("Hydra was to show something, not to run the verb")

    # Options last: --info would take an override that follows for its own argument.
    words = [f"firstlight {verb}", *args.overrides, *args.options]
    with command_line(words), explained(verb, args.overrides, args.config_dir):
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=verb)(never_called)()


def _train(args: Namespace) -> None:
    """Begin a run or a sweep, resume a run, or print its config."""
    warning = processes.several_tasks()
    if warning is not None:
        output.note(warning)
    if args.multirun:
        _begin_sweep(args)
        return
    from firstlight.compose.autoresume import autoresume, is_auto
    from firstlight.compose.resumed import resumed_config

    is_repeated = is_auto(args.overrides)
    overrides = autoresume(args.overrides, args.config_dir) if is_repeated else args.overrides
    composed = resumed_config(overrides, args.config_dir)
    if composed is None:
        composed = _composed("train", overrides, args)
    if args.cfg:
        _show(composed, args)
        return
    own = [word for word in overrides if not is_about_hydra(word)]
    try:
        with settings_of_hydra(composed) as config:
            _command("train").main(config, own, _callbacks_of_trial())
    except FinishedError as error:
        # For a command that is given again and again, a finished run is success.
        if not is_repeated:
            raise
        output.note(str(error).removeprefix("resume: "))


def _callbacks_of_trial() -> dict[str, Any]:
    """The callbacks that a run has in addition if it is a trial of a sweep."""
    if processes.SWEEP not in os.environ:
        return {}
    from firstlight.sweep.pruning import Pruning  # late: only trials need Optuna

    number = processes.number(processes.TRIAL, 0)
    return {"pruning": Pruning(sweep=os.environ[processes.SWEEP], number=number)}


def _begin_sweep(args: Namespace) -> None:
    """Check the words of `train -m`, then plan and run the sweep."""
    from firstlight.sweep.settings import only_in_some

    # Misspelt words are found here, without torch. Keys that only some trials have are checked when
    # the sweep is planned.
    conditional = tuple(f"{key}=" for key in only_in_some(args.overrides, args.config_dir))
    in_all = [word for word in args.overrides if not word.startswith(conditional)]
    check_trials("train", in_all, args.config_dir)
    _command("sweep").begin(args)


def _sweep(args: Namespace) -> None:
    """Show a sweep that has begun, or run what is left to do in it."""
    command = _command("sweep")
    with settings_of_hydra(_composed("sweep", args.overrides, args)) as config:
        planned = command.main(config)
    # Outside the block: `hydra.main` takes the settings of the launcher from a config of its own.
    if planned is not None:
        command.run(planned, [word for word in args.overrides if is_about_hydra(word)])
