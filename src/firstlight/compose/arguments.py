"""The words after a verb: options, and overrides made ready for Hydra's grammar."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from firstlight.compose.compose import listed
from firstlight.compose.hydra_calls import is_about_hydra
from firstlight.compose.keys import is_within, keys_of
from firstlight.compose.mistakes import Mistaken
from firstlight.compose.options import MODES, POSITIONALS, options_parser
from firstlight.compose.yaml_files import with_bases
from firstlight.conf_files import conf_dir, conf_dirs, text_keys
from firstlight.data.files import leads_to, user_path
from firstlight.errors import ConfigError, shorten
from firstlight.interpolation import quoted
from firstlight.output import note
from firstlight.overrides import key_of, ready, setting
from firstlight.packages import found
from firstlight.processes import is_further

EXTEND = "extend"
"""The action of `firstlight sweep` whose words are, but for its own keys, those of `train -m`."""
WRITTEN = ("out", "output_dir")
"""Names for the folder or file that a verb writes: every verb that writes one takes both."""
TEXT_MAY_HAVE_MOVED = ("evaluate", "generate", "compare")
"""Verbs without a section `data`, where data.path=... says where the text of a run is now."""
NEVER_USED = ("hydra.run", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Settings of Hydra's that name a folder: firstlight makes all folders, named by its own keys."""
OF_SWEEPS = {
    "hydra.callbacks": "a run has the section callbacks: callbacks=[default,early_stopping]",
    "hydra.output_subdir": "a run always keeps its config in .hydra",
    "hydra.job.chdir": "a run always stays in the working folder",
}
"""Settings that have an effect only where Hydra starts the job, and what to know otherwise."""


def parse_arguments(
    verb: str, words: list[str], settings: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the words after a verb.

    Besides Hydra's options, the namespace has `overrides`, ready for Hydra's grammar, and
    `options`, those of the words that are not overrides. For `sweep extend` it has in `added` what
    is added to a sweep, as overrides of `train -m`. A note tells of every installed package that
    cannot be used.

    `settings` are further overrides, which are ready for Hydra's grammar already.

    Raises:
        ConfigError: an unknown option, or options that exclude each other.
        Mistaken: words that are not `key=value`, or would have no effect.
    """
    args, overrides = _parse(words)
    # Once for all processes of a run.
    if not is_further():
        for problem in found().problems:
            note(problem)
    args.options = [word for word in words if word not in overrides]
    overrides = [_as_written_by(verb, word) for word in overrides]
    settings = [_as_written_by(verb, word) for word in settings]
    is_sweep = args.multirun or verb == "sweep"
    with_keys = _with_keys(verb, overrides)
    is_added = _adds_to_a_sweep(verb, [*with_keys, *settings])
    args.overrides, args.added = [], []
    problems: list[str] = []
    for word in (*with_keys, *settings):
        try:
            _check_word(verb, word, args.config_dir)
            _check_used(word, is_sweep=is_sweep)
            text = word
            if word not in settings:
                text = ready(word, args.config_dir, multirun=args.multirun or is_added(word))
                text = listed(text, args.config_dir)
        except ConfigError as error:
            problems.append(str(error))
            continue
        kept = args.added if is_added(text) else args.overrides
        kept.append(text)
    if verb in TEXT_MAY_HAVE_MOVED:
        args.overrides = _added_to_data(args.overrides, args.config_dir)
    if problems:
        raise Mistaken("\n".join(problems), args.overrides, args)
    return args


def _as_written_by(verb: str, word: str) -> str:
    """Give the key of what a verb writes the name that it has there, whichever of `WRITTEN` it has.

    A run has output_dir, its name in every stored config; other verbs have out.
    """
    key, equals, value = word.partition("=")
    if not equals or key not in WRITTEN:
        return word
    keys: set[str] = set()
    for part in with_bases(Path(f"{verb}.yaml"), "", conf_dirs()):
        keys.update(keys_of(part.content))
    if key in keys:
        return word
    own = [name for name in sorted(keys) if name.rpartition(".")[2] in WRITTEN]
    # Of lr-find's output_dir and lr_find.out the one in its own section.
    own.sort(key=lambda name: "." not in name)
    return f"{own[0]}={value}" if own else word


def _adds_to_a_sweep(verb: str, words: list[str]) -> Callable[[str], bool]:
    """Tells which of the words of a command say what is added to a sweep.

    Those of `sweep extend` that are neither settings of the verb itself nor Hydra's.
    """
    if verb != "sweep" or setting("action", EXTEND) not in words:
        return lambda word: False
    own = _own_keys(verb)
    return lambda word: not is_about_hydra(word) and word.partition("=")[0] not in own


def _own_keys(verb: str) -> dict[str, Any]:
    """The keys of the verb itself, at the top of its YAML file."""
    return yaml.safe_load(Path(conf_dir(), f"{verb}.yaml").read_text(encoding="utf-8"))


def _parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's options among the words, checked, and the words that are overrides."""
    for word in words:
        # Python writes bytes that it could not decode as halves of surrogate pairs.
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise ConfigError(f"{shorten(ascii(word))}: this is not UTF-8")
    parser = options_parser()
    # argparse takes no overrides after an option: in `train a=1 -m b=2,3` the last word is in more.
    args, more = parser.parse_known_args(words)
    for word in more:
        if word.startswith("-"):
            parser.error(f"unknown option {word}")
    # What follows --help is what it is about, if it is not an override.
    if args.help and ("=" in args.help or args.help.startswith("~")):
        more.append(args.help)
        args.help = ""
    _check_options(args)
    return args, [*args.overrides, *more]


def _check_options(args: argparse.Namespace) -> None:
    if sum(bool(getattr(args, mode)) for mode in MODES) > 1:
        raise ConfigError("--run, --multirun, --cfg and --info exclude each other")
    if (args.resolve or args.package) and not (args.cfg or args.help is not None):
        raise ConfigError("--resolve and --package belong to --cfg: add --cfg job")
    if args.config_dir is not None and not leads_to(Path(args.config_dir), Path.is_dir):
        raise ConfigError(f"--config-dir {args.config_dir}: no such folder")


def _check_word(verb: str, word: str, config_dir: str | None) -> None:
    if "=" not in word and not word.startswith("~"):
        raise ConfigError(
            f"'{word}' is not a setting: write key=value (firstlight {verb} --help lists the keys)"
        )
    if word.startswith("hydra.mode="):
        raise ConfigError(f"{word}: use -m for a sweep")
    if word.startswith("hydra.searchpath=") and config_dir is not None:
        raise ConfigError(f"{word}: give this or --config-dir, not both")


def _check_used(word: str, *, is_sweep: bool) -> None:
    """Refuse a setting of Hydra's that would have no effect.

    Raises:
        ConfigError: the word is such a setting.
    """
    # Lightning starts the other processes of a run with hydra.run.dir and hydra.output_subdir.
    if is_further():
        return
    key = key_of(word).replace("/", ".")
    for name in NEVER_USED:
        if is_within(key, name):
            raise ConfigError(f"{shorten(word)}: set the folder of a run with output_dir=...")
    for name, instead in OF_SWEEPS.items():
        if is_within(key, name) and not is_sweep:
            raise ConfigError(f"{shorten(word)}: has an effect only in a sweep (-m); {instead}")


def _added_to_data(words: list[str], config_dir: str | None) -> list[str]:
    """Write `data.path=...` as `+data.path=...`, for a config without the section `data`."""
    if any(word.startswith("data=") for word in words):
        return words
    texts = text_keys(config_dir)
    added: list[str] = []
    for word in words:
        key, _, _ = word.partition("=")
        added.append(f"+{word}" if key.startswith("data.") and key in texts else word)
    return added


def _with_keys(verb: str, words: list[str]) -> list[str]:
    """Give the words that are values alone their keys."""
    if verb not in POSITIONALS:
        return words
    keys = POSITIONALS[verb]
    alone = [word for word in words if _is_alone(verb, word)]
    rest = [word for word in words if word not in alone]
    if verb == "compare" and len(alone) > 1:
        return [f"runs=[{','.join(map(quoted, alone))}]", *rest]
    with_keys = [setting(key, value) for key, value in zip(keys, alone, strict=False)]
    # Words that are too many stay as they are: `_check_word` refuses them.
    return [*with_keys, *alone[len(keys) :], *rest]


def _is_alone(verb: str, word: str) -> bool:
    """Whether a word is a value without a key."""
    key, equals, _ = word.partition("=")
    if not equals:
        return True
    if key in _own_keys(verb):
        return False
    # A path may have `=` in it, if something of that name exists.
    return leads_to(user_path(word))
