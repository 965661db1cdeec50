"""The arguments of a call as overrides: strings as on the command line, keywords as Python values.

train("model=nano", "optimizer.lr=3e-4")
train(model="nano", optimizer={"lr": 3e-4})
train(model="nano", **{"optimizer.lr": 3e-4})
"""

import math
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from firstlight.errors import ConfigError, shorten, shown

Path = str | os.PathLike[str]
DEEPEST = 20
"""Sections within each other, in a keyword."""
SWEEP = "call firstlight.sweep(...)"
"""How a sweep is begun from Python."""


@dataclass(frozen=True)
class Values:
    """Several values of one key, in Hydra's grammar."""

    text: str


def choice(*values: Any) -> Values:
    """The values that a key has in a sweep, one after another: `lr=choice(1e-3, 3e-3)`."""
    if not values:
        raise ConfigError("choice: give the values, e.g. choice(1e-3, 3e-3)")
    # Texts of Hydra's grammar, read in one place (compose/grammar.py), as those of the command line
    # are.
    return Values(f"choice({','.join(_grammar('choice', value) for value in values)})")


def interval(low: float, high: float, *, log: bool = False, whole: bool = False) -> Values:
    """The range from which a sampler draws the values of a key.

    It draws uniformly; with `log` on a logarithmic scale, with `whole` whole numbers.

    Raises:
        ConfigError: `low` is not below `high`, or one of them cannot be on such a scale.
    """
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, Real) or not math.isfinite(end):
            raise ConfigError(f"interval: {name} ({shown(end)}): give a number")
        if whole and end != int(end):
            raise ConfigError(f"interval: {name} ({end}): not a whole number, but whole=True")
    if not low < high:
        raise ConfigError(f"interval: low ({low}) must be below high ({high})")
    if log and low <= 0:
        raise ConfigError(f"interval: low ({low}) must be above 0 on a logarithmic scale")
    text = f"interval({_grammar('interval', low)},{_grammar('interval', high)})"
    tags = [tag for tag, is_set in (("log", log), ("int", whole)) if is_set]
    return Values(f"tag({','.join(tags)},{text})" if tags else text)


def arguments(
    verb: str,
    overrides: Sequence[object],
    settings: Mapping[str, Any],
    config_dir: Path | None = None,
    *,
    is_sweep: bool = False,
) -> Namespace:
    """The arguments of a call of `verb`, as those of a command line.

    Their `overrides` are ready for Hydra's grammar. Keywords come after the strings, and win, as
    later words do.

    Raises:
        ConfigError: some cannot be overrides, a line for each.
    """
    from firstlight import verbs  # late: they import Hydra
    from firstlight.compose.arguments import parse_arguments
    from firstlight.compose.compose import check_single_values
    from firstlight.compose.mistakes import Mistaken

    words = [_word(verb, word) for word in overrides]
    if is_sweep:
        # As after -m: a comma then separates the values of a sweep, also where the key is a text.
        words.insert(0, "--multirun")
    if config_dir is not None:
        words += ["--config-dir", path_text("config_dir", config_dir)]
    # What extends a sweep may have several values, too.
    may_vary = is_sweep or verb == "sweep"
    args = None
    try:
        args = parse_arguments(verb, words, list(_words_of(settings, is_sweep=may_vary)))
        if not may_vary:
            check_single_values(verb, args.overrides, sweep=SWEEP)
    except Mistaken as error:
        error.options = error.options or args
        raise verbs.all_told(verb, error) from None
    return args


def _word(verb: str, word: object) -> str:
    if isinstance(word, os.PathLike):
        return os.fspath(word)
    if isinstance(word, Mapping):
        raise ConfigError(
            f"{verb}: {shown(word)}: settings in a dict are given as keywords: {verb}(**settings)"
        )
    if not isinstance(word, str):
        raise ConfigError(
            f"{verb}: {shown(word)}: give strings as on the command line ('model=nano'), or"
            " keywords (model='nano')"
        )
    if word in ("-m", "--multirun"):
        raise ConfigError(f"{word}: for a sweep, {SWEEP}")
    if word.startswith("-"):
        raise ConfigError(f"{shorten(word)}: options are for the command line")
    return word


def _words_of(settings: Mapping[str, Any], path: str = "", *, is_sweep: bool) -> Iterator[str]:
    if path.count(".") > DEEPEST:  # or it holds itself
        raise ConfigError(f"{shorten(path)}: sections within sections, more than {DEEPEST} deep")
    for name, value in settings.items():
        key = f"{path}{name}"
        if not isinstance(name, str) or not name or "=" in name:
            raise ConfigError(f"{shorten(repr(key))}: this is not a key, e.g. 'optimizer.lr'")
        if isinstance(value, Values):
            if not is_sweep:
                raise ConfigError(f"{key}: several values make a sweep; {SWEEP}")
            yield f"{key}={value.text}"
        # An empty one is a value: sweep.params={}.
        elif isinstance(value, Mapping) and value:
            yield from _words_of(value, f"{key}.", is_sweep=is_sweep)
        else:
            yield f"{key}={_grammar(key, value)}"


def _grammar(key: str, value: Any) -> str:
    """A Python value in Hydra's grammar, which gives it back as it is."""
    if value is None:
        return "null"
    # bool before int, of which it is a subclass.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):  # numpy's are, too
        # repr gives back the very same float; str() of a numpy number would not be in the grammar.
        return repr(float(value))
    if isinstance(value, str | os.PathLike):
        from firstlight.overrides import setting

        return setting(key, path_text(key, value)).removeprefix(f"{key}=")
    if isinstance(value, Mapping):
        items = [f"{_grammar(key, name)}:{_grammar(key, child)}" for name, child in value.items()]
        return f"{{{','.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_grammar(key, child) for child in value)}]"
    raise ConfigError(
        f"{key}: {shown(value)} is of type {type(value).__name__}, and a config holds text,"
        " numbers, and lists and dicts of them; a class is named by its _target_"
        " (docs/extending.md)"
    )


def path_text(name: str, value: object) -> str:
    """The path, or other text, that was given as the argument `name`.

    Raises:
        ConfigError: it is something else.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        raise ConfigError(f"{name} ({shown(value)}): give a text or a Path")
    return text
