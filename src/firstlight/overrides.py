"""The words of a command line: texts made ready for Hydra's grammar, and commands to paste.

Hydra's grammar gives `=`, brackets, commas, `#` and letters beyond ASCII a meaning of their own, or
refuses them, and reads 2024, 1e5 and null as what they look like. For a key that is a text, the
value is exactly what was typed. A key says so in its YAML file, at the beginning of its comment:

    text: ...           as it is typed, or what is inside Hydra's quotes; with -m, a comma
                        separates several texts
    text or list: ...   the same, or several of them: [a,b]
    prose: ...          every character, quotes and `${` included
    prose or list: ...  the same, or several texts: [a,"b, c"]

`null` is Python's None if the default is null or if the comment says what null means; for `prose`
it is a word of four letters.
"""

import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from firstlight.conf_files import TextKey, text_keys
from firstlight.errors import shell_word
from firstlight.interpolation import as_typed, quoted

# The time of Hydra's parser grows with the square of this number: here it is two seconds.
MOST_PARTS = 2000
"""Brackets, commas and spaces that one setting may have."""
_QUOTED = re.compile(r"""("(\\.|[^\\"])*"|'(\\.|[^\\'])*')""", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+*?|-]+")
"""Texts that Hydra's grammar reads as they are, except numbers, null, true, false and ???."""
_SWEEP = re.compile(r"\s*(choice|range|interval|glob|shuffle|sort|tag)\(.*\)\s*", re.DOTALL)
"""Several values that are written with a function of Hydra's grammar."""


def ready(word: str, config_dir: str | None = None, *, multirun: bool = False) -> str:
    """Make an override, as it was typed, ready for Hydra's grammar: quote its text if necessary.

    With `multirun`, the texts between commas are several values.
    """
    key, equals, value = word.partition("=")
    kind = text_keys(config_dir).get(key.lstrip("+"))
    if not equals or kind is None:
        return word
    is_prose_only = kind.is_prose and not kind.may_be_list
    if value == "null" and kind.may_be_null and not is_prose_only:
        return word
    if kind.is_prose or not multirun:
        return f"{key}={_ready(value, kind)}"
    if _SWEEP.fullmatch(value):
        return word
    parts = [_ready(part.strip(), kind) for part in _split(value, kind.may_be_list)]
    return f"{key}={','.join(parts)}"


def _ready(value: str, kind: TextKey) -> str:
    """Make one value, a text or a list of texts, ready for Hydra's grammar."""
    if kind.may_be_list and value.startswith("[") and value.endswith("]"):
        if not value[1:-1].strip():  # the empty list
            return value
        texts = [_ready_text(part.strip()) for part in _split(value[1:-1], nested=False)]
        return f"[{','.join(texts)}]"
    return _ready_prose(value) if kind.is_prose else _ready_text(value)


def _ready_prose(value: str) -> str:
    return _hidden(value) if "${" in value or value == "???" else quoted(value)


def _ready_text(value: str) -> str:
    if _is_plain(value) or _QUOTED.fullmatch(value) is not None:
        return value
    if "${" in value and _is_one_text(value):  # an interpolation, which quotes would end
        return value
    return _hidden(value) if value == "???" else quoted(value)


def _split(value: str, nested: bool) -> list[str]:
    """Split `value` at its commas, except those in Hydra's quotes or, if `nested`, in a list."""
    parts: list[str] = []
    start, position, depth = 0, 0, 0
    # Quotes and lists can only begin where nothing but spaces has been seen of a part.
    is_fresh = True
    while position < len(value):
        character = value[position]
        text = _QUOTED.match(value, position) if is_fresh else None
        if text is not None:
            position, is_fresh = text.end(), False
            continue
        if character == ",":
            if not depth:
                parts.append(value[start:position])
                start = position + 1
            is_fresh = True
        elif character == "[" and nested and is_fresh:
            depth += 1
        elif character == "]" and depth:
            depth -= 1
            is_fresh = False
        elif not character.isspace():
            is_fresh = False
        position += 1
    return [*parts, value[start:]]


def _is_plain(value: str) -> bool:
    """Whether Hydra's grammar reads `value` as the same text."""
    if not _PLAIN.fullmatch(value) or value.lower() in ("null", "true", "false", "???"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False  # a number


def _is_one_text(value: str) -> bool:
    """Whether Hydra's grammar reads `value`, with `${...}` in it, as one text."""
    if sum(map(value.count, "[]{}(), ")) > MOST_PARTS:
        return False
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return not override.is_sweep_override() and isinstance(override.value(), str)


def _hidden(value: str) -> str:
    """Write `value` in hexadecimal: OmegaConf would read an interpolation, or a missing value."""
    return f"${{text:{value.encode().hex()}}}"


def key_of(override: str) -> str:
    """The key of an override, whether it sets, adds (+) or deletes (~) it."""
    return override.partition("=")[0].lstrip("+~")


def setting(key: str, value: str) -> str:
    """Write an override, ready for Hydra's grammar, that gives `key` exactly this text."""
    if _is_plain(value):
        return f"{key}={value}"
    return f"{key}={_ready_prose(value)}"


def typed(override: str, config_dir: str | None = None) -> str:
    """Write an override as it would be typed: the inverse of `ready`."""
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
    bare = f"{key}={given}"
    if kind.is_prose and not kind.may_be_list:
        return bare
    # A text that looks like a list, or has quotes of its own, stays in Hydra's quotes.
    again = OverridesParser.create().parse_override(ready(bare, config_dir)).value()
    return bare if again == given else override


def command(verb: str, *overrides: str, config_dir: str | None = None) -> str:
    """Write a command to paste into a shell.

    `overrides` are ready for Hydra's grammar, or words without a key.
    """
    words = words_to_paste(*overrides, config_dir=config_dir)
    return f"{program('firstlight')} {verb} {words}".rstrip()


def words_to_paste(*overrides: str, config_dir: str | None = None) -> str:
    """Write what follows the verb in such a command."""
    words = [typed(word, config_dir) for word in overrides]
    if config_dir is not None:
        words += ["--config-dir", config_dir]
    return " ".join(map(shell_word, words))


def is_quoted(value: str) -> bool:
    """Whether `value` is one text in Hydra's quotes."""
    return _QUOTED.fullmatch(value) is not None


def named(key: str, value: str) -> str:
    """Write `value` without its key, as in `firstlight sweep resume DIR`, if it can be so given."""
    # Such a word would be read as an override, an option or a deletion.
    needs_key = "=" in value or value.startswith(("-", "~"))
    return setting(key, value) if needs_key else value


def program(name: str) -> str:
    """Write `name` as this shell finds it: its path if the environment is not activated.

    Where it is not installed as a program (python -m, a folder of packages), its module is run.
    """
    if shutil.which(name):
        return name
    beside = Path(sys.executable).parent / name
    if not beside.is_file():
        return f"{_as_typed_in_shell(sys.executable)} -m {name}"
    return _as_typed_in_shell(str(beside))


def _as_typed_in_shell(path: str) -> str:
    """The path of a program, from the working folder."""
    with suppress(OSError):  # the working folder may have been removed since
        path = os.path.relpath(path)
    if os.sep not in path:  # a shell looks for a bare name on its PATH only
        path = f"{os.curdir}{os.sep}{path}"
    return shell_word(path)
