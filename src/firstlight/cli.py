"""`firstlight VERB [overrides]`: verbs to entry points. Nothing here imports torch, so mistakes and help are fast."""

import importlib
import os
import sys
import traceback
from contextlib import nullcontext
from types import ModuleType
from typing import Any

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

VERBS = {
    "train": "train a model, or continue a run (resume=RUN)",
    "evaluate": "the loss and other metrics of a checkpoint on a text, or its results on tasks",
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


def _callbacks_of_trial() -> dict[str, Any]:
    """The callbacks that a run has beside its own because it is a trial of a sweep; none if it is not."""
    if processes.SWEEP not in os.environ:
        return {}
    from firstlight.sweep.pruning import Pruning  # late: only trials need Optuna

    return {"pruning": Pruning(sweep=os.environ[processes.SWEEP], number=processes.number(processes.TRIAL, 0))}


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


def _run(verb: str, rest: list[str]) -> int:
    from firstlight.compose import compose
    from firstlight.runs.environment import working_folder

    if working_folder() is None:  # Hydra asks for it, whatever the verb
        raise ConfigError("the working folder is not available (was it removed?); change to another one with cd")
    args = compose.parse_arguments(verb, rest)
    if args.multirun and verb not in ("train", "evaluate"):
        raise ConfigError(f"{verb}: -m is for sweeps of train and evaluate; call {verb} once for each value")
    if args.help:
        from firstlight.compose.help import help_text

        output.write(help_text(verb, VERBS[verb], args.overrides, args.config_dir))
        return 0
    if verb == "train" and (warning := processes.several_tasks()):
        note(warning)
    if verb == "train" and args.multirun:
        from firstlight.sweep import command as sweep
        from firstlight.sweep.settings import only_in_some

        some = tuple(f"{key}=" for key in only_in_some(args.overrides, args.config_dir))
        in_all = [word for word in args.overrides if not word.startswith(some)]
        compose.check_overrides(verb, in_all, multirun=True, config_dir=args.config_dir)  # misspelt words, fast

        sweep.begin(args)
        return 0
    goes_on = False
    if verb == "train":
        from firstlight.compose.autoresume import autoresume, is_auto

        goes_on, args.overrides = is_auto(args.overrides), autoresume(args.overrides, args.config_dir)
    resumed = compose.resumed_config(args.overrides, args.config_dir) if verb == "train" else None
    if resumed is None:
        trials = compose.check_overrides(verb, args.overrides, multirun=args.multirun, config_dir=args.config_dir)
        for config in trials:  # a sweep is refused whole, before its first job
            _command(verb).arguments(config)
    elif args.cfg:
        output.write(printable_lines(compose.to_yaml(resumed)))
        return 0

    import hydra

    failure: list[Exception] = []
    sweeps: list[Any] = []  # that are to be resumed
    launched_with = sys.argv

    def task(config: Any) -> Any:
        # Lightning starts the processes of a multi-device run from sys.argv: they need the verb, too.
        sys.argv = launched_with
        entry = _command(verb)
        try:
            if verb == "train":
                changes = args.overrides if resumed is not None else None
                result = entry.main(config if resumed is None else resumed, changes, _callbacks_of_trial())
            else:
                result = entry.main(config)
            sweeps.extend([result] if verb == "sweep" and result is not None else [])
            return result
        except FinishedError as error:
            if goes_on:  # the same command again, of which the run is done
                note(str(error).removeprefix("resume: "))
            else:
                failure.append(error)
            return None
        except Exception as error:
            if args.multirun:  # the job is reported as failed, the next ones run
                raise
            failure.append(error)  # kept from Hydra, which would add a line of its own
            return None

    overrides = args.overrides if resumed is None else []
    if args.multirun:  # a job's folder is named by what the jobs differ in
        swept = compose.swept_keys(overrides)
        same = [o.partition("=")[0].lstrip("+~") for o in overrides]
        overrides = [*overrides, f"hydra.job.config.override_dirname.exclude_keys=[{','.join({*same} - {*swept})}]"]
    words = [f"firstlight {verb}", *overrides, *args.options]  # --info would take what follows for its own
    # Of a sweep everything has been composed before, and what a job raises must not be taken for Hydra's words.
    explained = nullcontext() if args.multirun else compose.explained(verb, overrides, args.config_dir)
    with compose.command_line(words), explained:
        hydra.main(version_base="1.3", config_path=compose.conf_dir(), config_name=verb)(task)()
    if sweeps:
        from firstlight.sweep import command as sweep

        sweep.run(sweeps[0], [word for word in args.overrides if word.startswith(("hydra.", "hydra/"))])
    if failure:
        raise failure[0]
    return 0
