"""Words of a command line: which values are texts, how a text is written for Hydra's grammar, and
commands to paste.

Hydra reads `=`, brackets, commas, `#` and letters beyond ASCII in a value as something else, or
refuses them, and takes 2024, 1e5 and null for what they look like. The value of a key that is a
text is what was typed. A key says so in its YAML file, at the beginning of its comment:

    text: ...           as it is typed; in Hydra's quotes what is inside them; with -m the
                        texts between its commas
    text or list: ...   the same, or several of them: [a,b]
    prose: ...          every character of it, quotes and `${` too
    prose or list: ...  the same, or several texts: [a,"b, c"]

`null` is nothing where the default is null or the comment says what null means; as prose it is four
letters.
"""

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from firstlight.errors import shell_word
from firstlight.interpolation import as_typed

MOST_PARTS = 2000
"""Of one setting: Hydra's parser takes the square of their number, two seconds for these."""
_LOADER = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # written in C, where PyYAML was built with it
_config_dir: ContextVar[str | None] = ContextVar("config_dir", default=None)
_MARK = re.compile(r"(?P<kind>text|prose)(?P<list> or list)?: ")
_QUOTED = re.compile(r"""("(\\.|[^\\"])*"|'(\\.|[^\\'])*')""", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+*?|-]+")
"""Texts that Hydra's grammar reads as they are, but for numbers, `null`, `true`, `false` and
`???`."""
_SWEEP = re.compile(r"\s*(choice|range|interval|glob|shuffle|sort|tag)\(.*\)\s*", re.DOTALL)
"""Several values that are not written with commas alone."""


@dataclass(frozen=True)
class TextKey:
    """What the YAML file of a key says of its values; see above."""

    is_prose: bool
    may_be_list: bool
    may_be_null: bool

    def joined(self, other: "TextKey") -> "TextKey":
        """What two verbs have in common that both have the key: what either allows is allowed."""
        return TextKey(
            self.is_prose and other.is_prose,
            self.may_be_list or other.may_be_list,
            self.may_be_null or other.may_be_null,
        )


def conf_dir() -> str:
    """The folder of YAML files: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "conf"
    return str(packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf")


@functools.cache
def text_keys(config_dir: str | None = None) -> dict[str, TextKey]:
    """The keys whose values are texts: of every verb and every choice, and those of the user's
    `config_dir`.
    """
    found: dict[str, TextKey] = {}
    folders = [conf_dir()] if config_dir is None else [conf_dir(), config_dir]
    for top in map(
        Path, folders
    ):  # no deeper than groups are: it may be the folder of a whole project
        for file in (*top.glob("*.yaml"), *top.glob("*/*.yaml")):
            try:
                text = file.read_text(encoding="utf-8")
                marked = dict(_text_keys(text)) if _MARK.search(text) else {}
            except (
                OSError,
                ValueError,
                yaml.YAMLError,
            ):  # Hydra says what is wrong with it, if it is chosen at all
                continue
            package = _package(text, "" if file.parent == top else file.parent.name)
            for key, kind in marked.items():
                name = f"{package}.{key}".lstrip(".")
                found[name] = kind.joined(found.get(name, kind))
    return found


@contextmanager
def using_config_dir(folder: str | None) -> Iterator[None]:
    """Within the block, `folder` is the --config-dir of the command."""
    token = _config_dir.set(folder)
    try:
        yield
    finally:
        _config_dir.reset(token)


def config_dir() -> str | None:
    """The --config-dir of the command that runs."""
    return _config_dir.get()


def _package(text: str, group: str) -> str:
    """Where Hydra puts the keys of a file: below the name of its group, unless its `# @package`
    says otherwise.
    """
    header = re.search(r"^# @package (\S+)", text, flags=re.MULTILINE)
    package = group if header is None else header[1]
    return "" if package == "_global_" else package


def _text_keys(text: str) -> Iterator[tuple[str, TextKey]]:
    for name, value, comment in commented(text):
        mark = _MARK.match(comment)
        if mark is not None:
            may_be_null = value.tag.endswith(":null") or re.search(r"\bnull\b", comment) is not None
            yield name, TextKey(mark["kind"] == "prose", mark["list"] is not None, may_be_null)


def commented(text: str) -> Iterator[tuple[str, yaml.Node, str]]:
    """The dotted keys of a YAML file that have a comment, their values, and the comment: at the end
    of the key's line, with the lines of comment right below it."""
    lines = text.splitlines()

    def visit(node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node, str]]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name = f"{path}{key.value}"
            line = (
                value.end_mark.line if isinstance(value, yaml.ScalarNode) else key.start_mark.line
            )
            _, _, comment = lines[line][key.end_mark.column :].partition(" # ")
            words = [comment.strip()]
            for below in lines[line + 1 :]:
                if not below.strip().startswith("#") or not below.startswith(" "):
                    break
                words.append(below.strip().lstrip("# "))
            if any(words):
                yield name, value, " ".join(word for word in words if word)
            yield from visit(value, f"{name}.")

    root = yaml.compose(text, Loader=_LOADER)
    if root is not None:
        yield from visit(root, "")


def ready(word: str, config_dir: str | None = None, *, multirun: bool = False) -> str:
    """An override as it is typed, for Hydra's grammar: of a key that is a text the value is quoted
    where it has to be.

    With `multirun` the texts between commas are several values.
    """
    key, equals, value = word.partition("=")
    kind = text_keys(config_dir).get(key.lstrip("+"))
    if not equals or kind is None:
        return word
    is_prose_only = kind.is_prose and not kind.may_be_list  # of which null is four letters
    if value == "null" and kind.may_be_null and not is_prose_only:
        return word
    if kind.is_prose or not multirun:
        return f"{key}={_ready(value, kind)}"
    if _SWEEP.fullmatch(value):
        return word
    parts = [_ready(part.strip(), kind) for part in _split(value, kind.may_be_list)]
    return f"{key}={','.join(parts)}"


def _ready(value: str, kind: TextKey) -> str:
    if kind.may_be_list and value.startswith("[") and value.endswith("]"):
        if not value[1:-1].strip():
            return value
        texts = [_ready_text(part.strip()) for part in _split(value[1:-1], nested=False)]
        return f"[{','.join(texts)}]"
    return _ready_prose(value) if kind.is_prose else _ready_text(value)


def _ready_prose(value: str) -> str:
    return _hidden(value) if "${" in value or value == "???" else quoted(value)


def _ready_text(value: str) -> str:
    if _is_plain(value) or _QUOTED.fullmatch(value) or ("${" in value and _is_one_text(value)):
        return value
    return _hidden(value) if value == "???" else quoted(value)


def _split(value: str, nested: bool) -> list[str]:
    """The parts of `value` between commas, but for those in Hydra's quotes or, if `nested`, inside
    a list.
    """
    parts, start, position, depth = [], 0, 0, 0
    is_fresh = True  # nothing of this part has been seen yet: only here quotes and lists begin
    while position < len(value):
        character = value[position]
        if is_fresh and (text := _QUOTED.match(value, position)) is not None:
            position, is_fresh = text.end(), False
            continue
        if character == "," and not depth:
            parts.append(value[start:position])
            start = position + 1
        elif character == "[" and nested and is_fresh:
            depth += 1
        elif character == "]" and depth:
            depth -= 1
        is_fresh = character == "," or (
            is_fresh and (character.isspace() or (character == "[" and depth > 0))
        )
        position += 1
    return [*parts, value[start:]]


def _is_plain(value: str) -> bool:
    """Does Hydra's grammar read `value` as this text?"""
    if not _PLAIN.fullmatch(value) or value.lower() in ("null", "true", "false", "???"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _is_one_text(value: str) -> bool:
    """Does Hydra's grammar read `value`, with `${...}` in it, as one text?"""
    if sum(map(value.count, "[]{}(), ")) > MOST_PARTS:
        return False
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return not override.is_sweep_override() and isinstance(override.value(), str)


def quoted(value: str) -> str:
    """`value` as Hydra's grammar takes it for text."""
    escaped = re.sub(r'(\\*)(")', r"\1\1\\\2", value)  # backslashes count only before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'


def _hidden(value: str) -> str:
    """`value` where OmegaConf would read an interpolation, or a missing value."""
    return f"${{text:{value.encode().hex()}}}"


def setting(key: str, value: str) -> str:
    """An override, ready for Hydra's grammar, that gives `key` this very text."""
    if _is_plain(value):
        return f"{key}={value}"
    return f"{key}={_ready_prose(value)}"


def typed(override: str, config_dir: str | None = None) -> str:
    """An override that is ready for Hydra's grammar as it would be typed: what `ready` makes it
    from.
    """
    key, equals, value = override.partition("=")
    kind = text_keys(config_dir).get(key.lstrip("+"))
    if not equals or kind is None:
        return override
    if kind.is_prose and value.startswith("${text:"):
        return as_typed(override)
    if _is_plain(value) or value == "null" or (kind.is_prose and not _QUOTED.fullmatch(value)):
        return override
    given = OverridesParser.create().parse_override(f"key={value}").value()
    if isinstance(given, list):
        texts = [_ready_text(str(text)) for text in given]
        return f"{key}=[{','.join(texts)}]"
    as_it_is = f"{key}={given}"
    if kind.is_prose and not kind.may_be_list:
        return as_it_is
    # A text that looks like a list, or is in quotes of its own, needs Hydra's quotes.
    again = OverridesParser.create().parse_override(ready(as_it_is, config_dir)).value()
    return as_it_is if again == given else override


def command(verb: str, *overrides: str, config_dir: str | None = None) -> str:
    """A command to paste into a shell; `overrides` are ready for Hydra's grammar, or words without
    a key.
    """
    return " ".join(
        [program("firstlight"), verb, words_to_paste(*overrides, config_dir=config_dir)]
    ).rstrip()


def words_to_paste(*overrides: str, config_dir: str | None = None) -> str:
    """What follows the verb of such a command."""
    words = [typed(word, config_dir) for word in overrides]
    options = ["--config-dir", config_dir] if config_dir is not None else []
    return " ".join(map(shell_word, [*words, *options]))


def is_quoted(value: str) -> bool:
    """Is `value` one text in Hydra's quotes?"""
    return _QUOTED.fullmatch(value) is not None


def named(key: str, value: str) -> str:
    """`value` as a word without its key, where it can be given so (`firstlight sweep resume
    DIR`)."""
    needs_key = "=" in value or value.startswith(("-", "~"))
    return setting(key, value) if needs_key else value


def program(name: str) -> str:
    """How this shell finds the program `name`: as it is, or in an environment that is not
    activated.
    """
    if shutil.which(name):
        return name
    path = str(Path(sys.executable).parent / name)
    with suppress(OSError):  # the working folder may have been removed since
        path = os.path.relpath(path)
    return shell_word(path if os.sep in path else f"{os.curdir}{os.sep}{path}")
