"""What may stand where the cursor is: verbs, options, groups and their choices, keys, files."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from firstlight.completion.line import Line
from firstlight.compose.options import POSITIONALS, Option, options_of
from firstlight.compose.outline import Key, Outline, outline
from firstlight.compose.yaml_files import choices, title_of
from firstlight.conf_files import conf_dirs, mark_of
from firstlight.data.files import is_hidden


@dataclass(frozen=True)
class Candidate:
    """A whole word, and what it is."""

    word: str
    what: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing more of the same word can follow, so that a space does."""
        return self.word[-1] not in "=./" and self.word.count("[") <= self.word.count("]")


def candidates(
    line: Line, verbs: Mapping[str, str], others: Mapping[str, tuple[str, tuple[str, ...]]]
) -> list[Candidate]:
    """The words that begin as the current one does, each once.

    `verbs` and `others` may be the first word, and say what it is; what follows `others` comes with
    it.
    """
    found: dict[str, Candidate] = {}
    for candidate in _all(line, verbs, others):
        if candidate.word.startswith(line.current):
            found.setdefault(candidate.word, candidate)
    return list(found.values())


def _all(
    line: Line, verbs: Mapping[str, str], others: Mapping[str, tuple[str, tuple[str, ...]]]
) -> Iterator[Candidate]:
    if not line.before:
        for name, what in verbs.items():
            yield Candidate(name, what)
        for name, (what, _) in others.items():
            yield Candidate(name, what)
    elif line.verb in others:
        if len(line.before) == 1:
            yield from map(Candidate, others[line.verb][1])
    elif line.verb in verbs:
        yield from _after_verb(line)


def _after_verb(line: Line) -> Iterator[Candidate]:
    config_dir = line.after("--config-dir", "-cd")
    whole = outline(line.verb, line.typed, conf_dirs(config_dir))
    options = options_of(line.verb)
    option = next((option for option in options if line.before[-1] in option.names), None)
    if option is not None and option.word:
        yield from _words_of_option(option, whole, line.current)
        if option.alone is None:
            return
    if line.current.startswith("-"):
        for option in options:
            yield Candidate(option.long, option.what)
        return
    # +key=value adds a key, ~key removes one.
    name = line.current.lstrip("+~")
    key, equals, value = name.partition("=")
    sign = line.current.removesuffix(name)
    if equals:
        found = _values(whole, key, value, config_dir)
        prefix = f"{sign}{key}="
    else:
        found = [*_names(whole, name), *_alone(line, whole)]
        prefix = sign
    for candidate in found:
        yield Candidate(f"{prefix}{candidate.word}", candidate.what)


def _words_of_option(option: Option, whole: Outline, typed: str) -> Iterator[Candidate]:
    sections = sorted({name.rpartition(".")[0] for name in whole.keys if "." in name})
    if option.long == "--config-dir":
        yield from _files(typed)
    elif option.long == "--package":
        yield from map(Candidate, sections)
    elif option.long == "--help":
        yield Candidate("all", "every key")
        yield from map(Candidate, sorted({*whole.chosen, *sections}))
    else:
        yield from map(Candidate, option.values)


def _names(whole: Outline, typed: str) -> Iterator[Candidate]:
    """Yield the groups, and the next part of each key."""
    for group, choice in whole.chosen.items():
        yield Candidate(f"{group}=", f"a group; now {_shown(choice)}")
    above = typed[: typed.rfind(".") + 1]
    for name, key in whole.keys.items():
        if name.startswith(above):
            part, dot, _ = name.removeprefix(above).partition(".")
            if dot:
                yield Candidate(f"{above}{part}.", "a section")
            else:
                yield Candidate(f"{name}=", key.comment.removeprefix(mark_of(key.comment)))


def _alone(line: Line, whole: Outline) -> Iterator[Candidate]:
    """Yield the values that may stand here without their key."""
    keys = POSITIONALS.get(line.verb, ())
    n_before = sum("=" not in word and not word.startswith("-") for word in line.before[1:])
    if keys:
        key = keys[min(n_before, len(keys) - 1)]
        yield from _of_key(whole.keys[key], line.current)


def _values(whole: Outline, key: str, typed: str, config_dir: str | None) -> Iterator[Candidate]:
    """Yield the values of a key, or the choices of a group; of a list, those of its next item."""
    before = typed[: max(typed.rfind("["), typed.rfind(",")) + 1]
    group, item = key.partition("@")[0], typed.removeprefix(before)
    found: list[Candidate] = []
    if key in whole.chosen:
        for choice in choices(group, config_dir):
            found.append(Candidate(choice, title_of(group, choice, config_dir)))
    elif key in whole.keys:
        found += _of_key(whole.keys[key], item)
    found = [candidate for candidate in found if candidate.word.startswith(item)]
    for candidate in found:
        yield Candidate(f"{before}{candidate.word}", candidate.what)
    if len(found) == 1 and "[" in before:  # the list may end here, or go on
        yield Candidate(f"{before}{found[0].word}]", found[0].what)


def _of_key(key: Key, typed: str) -> Iterator[Candidate]:
    """Yield the values that a YAML file tells of a key, and the names of files if it is a text."""
    if isinstance(key.value, bool):
        yield from (Candidate("true"), Candidate("false"))
    default = _shown(key.value)
    for value in dict.fromkeys([*_listed(key.comment, default), *_quoted(key.comment)]):
        yield Candidate(value)
    if default and "${" not in default and "?" not in default:
        yield Candidate(default, "the default")
    if mark_of(key.comment).startswith("text"):
        yield from _files(typed)


def _quoted(comment: str) -> list[str]:
    """The words that a comment has in quotes: "last"."""
    return re.findall(r'"([\w.-]+)"', comment)


def _listed(comment: str, default: str) -> list[str]:
    """The values that a comment lists, `train, val (...), test or all`, if the default is there."""
    word = r"[\w.-]+"
    for part in re.split(r"[:;] ", re.sub(r" \([^)]*\)", "", comment)):
        if re.fullmatch(rf"{word}((, or |, | or ){word})+", part):
            values = re.split(r", or |, | or ", part)
            if default in values:
                return values
    return []


def _shown(value: Any) -> str:
    """A value as it is typed; "" if it is nothing, or a section."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "" if value is None or isinstance(value, dict) else str(value)


def _files(typed: str) -> Iterator[Candidate]:
    """Yield the files and folders whose paths begin as typed; hidden ones if their name does."""
    folder, slash, name = typed.rpartition("/")
    place = os.path.expanduser(f"{folder}{slash}") or os.curdir  # noqa: PTH111 (stays as typed)
    with suppress(OSError, ValueError):
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if not is_hidden(entry.name) or name.startswith("."):
                end = "/" if entry.is_dir() else ""
                yield Candidate(f"{folder}{slash}{entry.name}{end}")
