"""`firstlight VERB [overrides]`: the verbs and the exit codes."""

import os
import sys

from firstlight import __version__, output
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

# Everything else is imported late: tab completion has a tenth of a second, and the first line of a
# command is shown before torch, which takes seconds, is imported.

VERBS = {
    "train": "train a model, or resume a run (resume=RUN)",
    "plan": "say what a run will take, here or on a cluster, and what is probably wrong with it",
    "lr-find": "make a range test of the learning rate: a short run whose rate rises, and its plot",
    "coord-check": "see whether steps move wide models as far as narrow ones (muP), and its plot",
    "ladder": "train sizes at equal compute, predict the loss of the next one, and train it",
    "prepare": "make a text of any size into shards of tokens, once, for many runs",
    "evaluate": "measure a checkpoint: loss and other metrics on a text, or results on tasks",
    "generate": "continue a prompt with a checkpoint",
    "verify": "prove on your config that a killed and resumed run is the run that was never killed",
    "sweep": "show a sweep's progress and best point; resume it, retry failed trials, or add some",
    "compare": "compare runs, or the trials of a sweep: which is best, and is it more than chance",
    "board": "open TensorBoard on runs, in the colours of what was swept",
    "bench": "measure how fast your config trains here, where the time goes, what would be faster",
    "info": "show what a run or a checkpoint holds, without loading it; check that it is complete",
    "new": "write a small package of your own: a model, a callback, an experiment and a test",
    "export": "write a checkpoint for other programs: Hugging Face's format, or safetensors",
}

WITHOUT_TORCH = ("new", "board")
"""Verbs that are done at once; the others import torch, which takes seconds."""
OTHERS = {
    "help": "the keys of a verb; also of a group, or a part of a key: firstlight help train lr",
    "completion": 'tab completion for bash, zsh or fish: eval "$(firstlight completion bash)"',
}
"""Words that may stand in place of a verb."""
HELP = ("-h", "--help", "help")

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0: done; 1: the run failed; 2: a mistake of the user's; 130: interrupted; 141: the reader of
    standard output has gone.
    """
    # Before anything is printed or opened.
    output.prepare()
    # Secrets of the command before, where one process runs several (tests, notebooks).
    forget_hidden()
    try:
        words = sys.argv[1:] if arguments is None else arguments
        with output.library_warnings_as_notes():
            _answer([_as_typed(word) for word in words])
        return 0
    except ConfigError as error:
        from firstlight import launchers

        with launchers.telling() as is_first:
            if is_first:
                _tell(message_lines(error))
        return 2
    except RunError as error:
        _tell(str(error).splitlines())
        return 1
    except UnicodeEncodeError as error:
        # In the locale C the encoding of file names is ASCII. Any other encoding is a defect of
        # ours, which the last clause would otherwise hide.
        if error.encoding != sys.getfilesystemencoding().lower():
            raise
        name = shorten(ascii(error.object))
        problem = f"files cannot have such names in this locale ({error.encoding})"
        _tell([f"{name}: {problem}; set PYTHONUTF8=1"])
        return 2
    except BrokenPipeError:  # `... | head`: nobody reads any more, which is nobody's mistake
        output.give_up(sys.stdout)
        return 141  # 128 + SIGPIPE, as shells report it
    except KeyboardInterrupt:
        _tell(["interrupted"])
        return 130  # 128 + SIGINT
    except Exception:  # a defect of ours
        if not has_hidden():
            raise
        import traceback

        # Python would print the values of secrets that are in the message; `tell` hides them.
        tell(traceback.format_exc().rstrip(), stderr=True)
        return 1


def _answer(words: list[str]) -> None:
    if problem := unsupported(sys.platform, sys.version_info[:2]):
        raise ConfigError(problem)
    verb, *rest = words or ["--help"]
    if verb in ("-V", "--version"):
        output.write(f"{__version__}\n")
    elif verb == "--complete":
        from firstlight.completion.shells import SHELLS, answer

        following = {"help": tuple(VERBS), "completion": SHELLS}
        answer(rest, VERBS, {name: (what, following[name]) for name, what in OTHERS.items()})
    elif verb in ("completion", "--shell-completion", "-sc"):
        from firstlight.completion.shells import script

        # install=bash: as Hydra's own option has it
        output.write(script(" ".join(rest).removeprefix("install=")))
    elif verb in HELP and rest:
        _run(rest[0], ["--help", *rest[1:]])
    elif verb in HELP:
        from firstlight.help_page import show, usage

        show(usage(__version__, VERBS, OTHERS))
    else:
        _run(verb, rest)


def _run(verb: str, words: list[str]) -> None:
    if verb not in VERBS:
        raise ConfigError(
            f"unknown verb '{verb}'{did_you_mean(verb, VERBS)} (verbs: {', '.join(VERBS)})"
        )
    from firstlight import processes
    from firstlight.compose.options import only_shows

    processes.begin()
    if verb not in WITHOUT_TORCH and not only_shows(words) and not processes.is_further():
        output.announce(f"firstlight {__version__}, {verb}: loading PyTorch ...")
    # Imported late: Hydra takes a moment, and a misspelt verb is answered at once.
    from firstlight.verbs import run

    run(verb, VERBS[verb], words)


def _tell(lines: list[str]) -> None:
    for line in lines:
        tell(f"firstlight: {line}", stderr=True)


def unsupported(system: str, python: tuple[int, ...]) -> str | None:
    """Why firstlight does not run on this `system` (sys.platform) or Python; None if it does."""
    if system not in ("linux", "darwin"):
        return f"it runs on Linux and macOS, not on {system}; on Windows use WSL"
    if not OLDEST_PYTHON <= python <= NEWEST_PYTHON:
        oldest, newest, this = (
            ".".join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON, python)
        )
        return (
            f"it runs on Python {oldest} to {newest}, and this is {this}; make another environment"
        )
    return None


def _as_typed(word: str) -> str:
    """Decode a word of the command line as UTF-8 where the locale's encoding is ASCII."""
    # Python writes each byte that it could not decode as half of a surrogate pair.
    if not any("\ud800" <= character <= "\udfff" for character in word):
        return word
    try:
        return os.fsencode(word).decode()
    except UnicodeError:  # not UTF-8: `parse_arguments` refuses it
        return word
