"""`firstlight VERB [overrides]`: the verbs, and what a command ends with."""

import os
import sys
import traceback

from firstlight import __version__, output, processes
from firstlight.errors import (
    ConfigError,
    RunError,
    did_you_mean,
    forget_hidden,
    has_hidden,
    message_lines,
    shorten,
)
from firstlight.output import tell

VERBS = {
    "train": "train a model, or resume a run (resume=RUN)",
    "evaluate": "the loss and other metrics of a checkpoint on a text, or its results on tasks",
    "generate": "continue a prompt with a checkpoint",
    "verify": "prove on your config that a killed and resumed run is the run that was never killed",
    "sweep": "show a sweep's progress and best point; resume it or retry failed trials",
    "compare": (
        "runs beside each other, or the trials of a sweep: which is best, and is it more than"
        " chance"
    ),
    "bench": (
        "how fast your config trains on this machine, where the time goes, and what would be faster"
    ),
    "info": "what a run or a checkpoint holds, without loading it; whether it is complete",
    "export": "write a checkpoint for other programs: Hugging Face's format, or safetensors",
}

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)

USAGE = """firstlight {version}: pre-train small GPT language models from scratch

usage: firstlight VERB [key=value ...]

{verbs}

  firstlight VERB --help          every key of a verb, with its meaning and default
  firstlight train -m key=a,b     a sweep: one run for each value
  firstlight train --cfg job      the composed config, and nothing else
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; return the exit code: 0 done, 1 a run that failed, 2 a mistake of the
    user's, 130 and 141 interrupted and not read to the end."""
    output.prepare()
    forget_hidden()
    try:
        _answer([_as_typed(word) for word in (sys.argv[1:] if arguments is None else arguments)])
        return 0
    except ConfigError as error:
        _tell(message_lines(error))
        return 2
    except RunError as error:
        _tell(str(error).splitlines())
        return 1
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding().lower():
            raise
        name = shorten(ascii(error.object))
        _tell(
            [
                f"{name}: files cannot have such names in this locale ({error.encoding}); set"
                " PYTHONUTF8=1"
            ]
        )
        return 2
    except BrokenPipeError:  # `... | head`: nobody reads any more, which is nobody's mistake
        output.give_up(sys.stdout)
        return 141  # as of a program that SIGPIPE ends
    except KeyboardInterrupt:
        _tell(["interrupted"])
        return 130
    except Exception:  # a defect of ours
        if not has_hidden():
            raise
        tell(traceback.format_exc().rstrip(), stderr=True)
        return 1


def _answer(words: list[str]) -> None:
    if problem := unsupported(sys.platform, sys.version_info[:2]):
        raise ConfigError(problem)
    if not words or words[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {verb:<10} {what}" for verb, what in VERBS.items())
        output.write(USAGE.format(version=__version__, verbs=verbs))
        return
    verb, *rest = words
    if verb in ("-V", "--version"):
        output.write(f"{__version__}\n")
        return
    processes.begin()
    if verb not in VERBS:
        raise ConfigError(
            f"there is no verb '{verb}'{did_you_mean(verb, VERBS)} (verbs: {', '.join(VERBS)})"
        )
    from firstlight.verbs import run  # late: Hydra takes a moment to import

    run(verb, VERBS[verb], rest)


def _tell(lines: list[str]) -> None:
    for line in lines:
        tell(f"firstlight: {line}", stderr=True)


def unsupported(system: str, python: tuple[int, ...]) -> str | None:
    """Why firstlight does not run on this `system` (sys.platform), or this version of Python; None
    if it does.
    """
    if system not in ("linux", "darwin"):
        return f"it runs on Linux and macOS, not on {system}; on Windows use WSL"
    if not OLDEST_PYTHON <= python <= NEWEST_PYTHON:
        versions = " to ".join(
            ".".join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON)
        )
        return (
            f"it runs on Python {versions}, and this is {'.'.join(map(str, python))}; make another"
            " environment"
        )
    return None


def _as_typed(word: str) -> str:
    """A word of the command line as text, also where the locale is ASCII: Python could not decode
    it there.
    """
    if not any("\ud800" <= character <= "\udfff" for character in word):
        return word
    try:
        return os.fsencode(word).decode()
    except UnicodeError:  # it is not UTF-8, as will be said
        return word
