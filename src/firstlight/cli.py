"""`firstlight VERB [overrides]`: verbs to entry points. Nothing here imports torch, so mistakes and help are fast."""

import importlib
import os
import sys
import traceback
from argparse import Namespace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from firstlight import __version__, output, processes
from firstlight.errors import (
    ConfigError,
    FinishedError,
    RunError,
    did_you_mean,
    forget_hidden,
    has_hidden,
    message_lines,
    printable_lines,
)
from firstlight.output import note, tell

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBS = {
    "train": "train a model, or continue a run (resume=RUN)",
    "evaluate": "loss, perplexity and bits per byte of a checkpoint on a text, or its results on tasks",
    "generate": "continue a prompt with a checkpoint",
    "verify": "prove on your config that a killed and continued run is the run that was never killed",
    "sweep": "how far a sweep is, its best point; resume it, or retry what failed",
    "compare": "runs beside each other, or the trials of a sweep: which is best, and is it more than chance",
    "bench": "how fast your config trains on this machine, where the time goes, and what would be faster",
    "info": "what a run or a checkpoint holds, without loading it; whether it is whole",
    "export": "write a checkpoint for other programs: Hugging Face's format, or safetensors",
}

PACKAGES = ("verify", "sweep", "compare", "bench")
"""Verbs that are packages of their own; the others are modules of `commands`."""

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)

USAGE = """firstlight {version}: pre-train small GPT language models from scratch

usage: firstlight VERB [key=value ...]

{verbs}

  firstlight VERB --help          every key of a verb, with its meaning and default
  firstlight train -m key=a,b     a sweep: one run for each value
  firstlight train --cfg job      the composed config, and nothing else
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; return the exit code: 0 done, 1 a run that failed, 2 a mistake of the user's, 130 and
    141 interrupted and not read to the end."""
    output.prepare()
    if problem := unsupported(sys.platform, sys.version_info[:2]):
        tell(f"firstlight: {problem}", stderr=True)
        return 2
    argv = [_as_typed(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    verbs = "\n".join(f"  {verb:<10} {what}" for verb, what in VERBS.items())
    usage = USAGE.format(version=__version__, verbs=verbs)
    forget_hidden()
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            output.write(usage)
            return 0
        if argv[0] in ("-V", "--version"):
            output.write(f"{__version__}\n")
            return 0
        verb, rest = argv[0], argv[1:]
        processes.begin()
        if verb not in VERBS:
            raise ConfigError(f"there is no verb '{verb}'{did_you_mean(verb, VERBS)} (verbs: {', '.join(VERBS)})")
        return _run(verb, rest)
    except ConfigError as error:
        for line in message_lines(error):
            tell(f"firstlight: {line}", stderr=True)
        return 2
    except RunError as error:
        for line in str(error).splitlines():
            tell(f"firstlight: {line}", stderr=True)
        return 1
    except BrokenPipeError:  # `... | head`: nobody reads any more, which is nobody's mistake
        output.give_up(sys.stdout)
        return 141  # as of a program that SIGPIPE ends
    except KeyboardInterrupt:
        tell("firstlight: interrupted", stderr=True)
        return 130
    except Exception:  # ours to mend
        if not has_hidden():
            raise
        tell(traceback.format_exc().rstrip(), stderr=True)
        return 1


def unsupported(system: str, python: tuple[int, ...]) -> str | None:
    """Why firstlight does not run on this `system` (sys.platform), or this version of Python; None if it does."""
    if system not in ("linux", "darwin"):
        return f"it runs on Linux and macOS, not on {system}; on Windows use WSL"
    if not OLDEST_PYTHON <= python <= NEWEST_PYTHON:
        versions = " to ".join(".".join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON))
        return f"it runs on Python {versions}, and this is {'.'.join(map(str, python))}; make another environment"
    return None


def _as_typed(word: str) -> str:
    """A word of the command line as text, also where the locale is ASCII: Python could not decode it there."""
    if not any("\ud800" <= character <= "\udfff" for character in word):
        return word
    try:
        return os.fsencode(word).decode()
    except UnicodeError:  # it is not UTF-8, as will be said
        return word


def _command(verb: str) -> ModuleType:
    """The module of a verb, with its `arguments` and its `main`; imported late, as most of them need torch."""
    return importlib.import_module(f"firstlight.{verb}.command" if verb in PACKAGES else f"firstlight.commands.{verb}")


def _run(verb: str, words: list[str]) -> int:
    """Do what a verb is asked for. Modules are imported late: `--help` and mistakes need few of them."""
    from firstlight.compose.arguments import parse_arguments
    from firstlight.overrides import using_config_dir
    from firstlight.runs.run_folder import working_folder

    if working_folder() is None:  # Hydra asks for it, whatever the verb
        raise ConfigError("the working folder is not available (was it removed?); change to another one with cd")
    args = parse_arguments(verb, words)
    if args.multirun and verb != "train":
        raise ConfigError(f"{verb}: -m is for train only; call {verb} once for each value")
    with using_config_dir(args.config_dir):
        if args.help:
            _show_help(verb, args)
        elif args.info or args.shell_completion or args.cfg in ("hydra", "all"):
            _let_hydra_show(verb, args)
        elif verb == "train":
            _train(args)
        elif args.cfg:
            _show_config(_composed(verb, args.overrides, args.config_dir), args)
        elif verb == "sweep":
            _sweep(args)
        else:
            _call(verb, args)
    return 0


def _show_help(verb: str, args: Namespace) -> None:
    from firstlight.compose.help import help_text

    output.write(help_text(verb, VERBS[verb], args.overrides, args.config_dir))


def _let_hydra_show(verb: str, args: Namespace) -> None:
    import hydra

    from firstlight.compose.arguments import options_for_hydra
    from firstlight.compose.explain import explained
    from firstlight.compose.hydra_calls import command_line
    from firstlight.overrides import conf_dir

    def never_called(config: Any) -> None:
        raise AssertionError("Hydra was to show something, not to run the verb")

    words = [f"firstlight {verb}", *args.overrides, *options_for_hydra(args)]
    with command_line(words), explained(verb, args.overrides, args.config_dir):
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=verb)(never_called)()


def _show_config(config: "DictConfig", args: Namespace) -> None:
    from firstlight.compose.compose import to_yaml
    from firstlight.compose.hydra_calls import settings_of_hydra

    with settings_of_hydra(config):
        output.write(printable_lines(to_yaml(config, args.package, resolve=args.resolve)))


def _composed(verb: str, overrides: list[str], config_dir: str | None) -> "DictConfig":
    """The config of a command, with Hydra's own section."""
    from firstlight.compose.compose import check_single_values, compose_config

    check_single_values(overrides)
    return compose_config(verb, overrides, config_dir, with_hydra=True)


def _call(verb: str, args: Namespace) -> None:
    from firstlight.compose.hydra_calls import settings_of_hydra

    config = _composed(verb, args.overrides, args.config_dir)
    with settings_of_hydra(config):
        _command(verb).main(config)


def _train(args: Namespace) -> None:
    if warning := processes.several_tasks():
        note(warning)
    if args.multirun:
        _begin_sweep(args)
        return
    from firstlight.compose.autoresume import autoresume, is_auto
    from firstlight.compose.hydra_calls import is_about_hydra, settings_of_hydra
    from firstlight.compose.resumed import resumed_config

    is_repeated = is_auto(args.overrides)
    overrides = autoresume(args.overrides, args.config_dir)
    config = resumed_config(overrides, args.config_dir)
    if config is None:
        config = _composed("train", overrides, args.config_dir)
    if args.cfg:
        _show_config(config, args)
        return
    try:
        with settings_of_hydra(config):
            own = [word for word in overrides if not is_about_hydra(word)]
            _command("train").main(config, own, _callbacks_of_trial())
    except FinishedError as error:
        if not is_repeated:
            raise
        note(str(error).removeprefix("resume: "))


def _callbacks_of_trial() -> dict[str, Any]:
    """The callbacks that a run has beside its own because it is a trial of a sweep; none if it is not."""
    if processes.SWEEP not in os.environ:
        return {}
    from firstlight.sweep.pruning import Pruning  # only trials need Optuna

    return {"pruning": Pruning(sweep=os.environ[processes.SWEEP], number=processes.number(processes.TRIAL, 0))}


def _begin_sweep(args: Namespace) -> None:
    from firstlight.compose.compose import check_trials
    from firstlight.sweep import command
    from firstlight.sweep.settings import only_in_some

    # Misspelt words are found without importing torch. Keys that only some trials have are checked with the plan.
    conditional = tuple(f"{key}=" for key in only_in_some(args.overrides, args.config_dir))
    in_all = [word for word in args.overrides if not word.startswith(conditional)]
    check_trials("train", in_all, args.config_dir)
    command.begin(args)


def _sweep(args: Namespace) -> None:
    from firstlight.compose.hydra_calls import is_about_hydra, settings_of_hydra
    from firstlight.sweep import command

    config = _composed("sweep", args.overrides, args.config_dir)
    with settings_of_hydra(config):
        planned = command.main(config)
    if planned is not None:
        command.run(planned, [word for word in args.overrides if is_about_hydra(word)])
