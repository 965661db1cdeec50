"""What `${...}` in a config stands for, and what of it is stored with a run.

A value that comes from the environment (`${oc.env:SCRATCH}`) may be a secret. A run may have such
values where a secret or a place belongs. The config that is built has the value; the one that is
stored has the text in its place, and no message shows the value. A stored config is data when it is
read again: nothing in it is resolved.

A stored text that holds `${oc.env:` is in OmegaConf's syntax, with a backslash before each `${`
that is not an interpolation; every other stored text is as it is.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)
from omegaconf.resolvers import oc

from firstlight.errors import ConfigError, hide, shell_word, shorten
from firstlight.processes import given

ENVIRONMENT = "${oc.env:"
_readable: set[str] | None = None
"""Variables of the environment that may be looked up; None: all."""
FORMS = "the forms are ${key}, ${oc.env:NAME} and ${now:%Y-%m-%d}; '\\${' is a text"
"""Of interpolations, for messages."""
UNUSED = ("name", "output_dir", "init_from")
"""Keys that a resumed run does not use."""
PLACES = ("name", "output_dir", "init_from", "resume", "data", "logger", "callbacks")
"""Keys and sections of a run in which a text may come from the environment."""
_MARK = f"<{secrets.token_hex(8)}>"
"""In the place of the `$` of an interpolation of the environment, to tell it from a text that looks
like one."""
_BEFORE_BRACE = re.compile(r"(\\*)\$\{")
_BEFORE_MARK = re.compile(rf"(\\*){_MARK}")
_NO_DEFAULT = object()


@contextmanager
def only_variables(names: Iterable[str] | None) -> Iterator[None]:
    """Within the block, let texts look up no other variables of the environment than `names`; None:
    all.

    For texts that the user has not typed: a file from elsewhere could have secrets sent wherever it
    likes.
    """
    global _readable
    before, _readable = _readable, None if names is None else set(names)
    try:
        yield
    finally:
        _readable = before


def check_kept(config: DictConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """The config to store: `plain`, which is `config` resolved, with texts from the environment as
    interpolations.

    Raises:
        ConfigError: a value comes from the environment where no secret or place belongs.
    """
    _register({"oc.env": _marked_env, "stored": _marked_stored})
    try:
        marked = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:  # ${oc.decode:${oc.env:N}}, ${parts.${oc.env:PART}}
        raise _refusal(error.full_key or "config") from None
    finally:
        _register(_RESOLVERS)
    return _stored("", plain, marked)


def why_unresolved(error: OmegaConfBaseException) -> str:
    """What is wrong with an interpolation, in a line: its text, and how it is written."""
    assert OmegaConf.is_config(error.parent_node)
    parent: Any = OmegaConf.to_container(error.parent_node, resolve=False)
    text = shorten(as_typed(str(parent[error.key])))
    kind, _, reason = (
        str(error).splitlines()[0].rpartition(" raised while resolving interpolation: ")
    )
    if isinstance(error, UnsupportedInterpolationType):
        return f"{text}: there is no such resolver; {FORMS}"
    if isinstance(error, InterpolationKeyError):
        return f"{text}: there is no such key; {FORMS}"
    if kind == "TypeError":
        return f"{text}: these are not the arguments that it takes; {FORMS}"
    return f"{text}: " + reason.strip('"')


def from_environment(stored: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The keys of a stored config whose values came from the environment, and the values as they
    are given again.
    """
    for key, value in stored.items():
        where = f"{path}{key}"
        if isinstance(value, dict):
            yield from from_environment(value, f"{where}.")
        elif any(map(_is_interpolation, _texts(value))):
            yield where, _as_override(value)


def given_again(key: str, text: str) -> str:
    """How a value from the environment is given on the command line."""
    return f"{key}={shell_word(text)}"


def as_data(stored: Any) -> Any:
    """A stored config for OmegaConf, which will find nothing in it to resolve."""
    if isinstance(stored, dict):
        return {key: as_data(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [as_data(value) for value in stored]
    if isinstance(stored, str) and ("${" in stored or stored == "???"):
        return f"${{stored:{stored.encode().hex()}}}"
    return stored


def as_values(stored: Any) -> Any:
    """A stored config as the values that it was made of; what came from the environment stays
    text."""
    if isinstance(stored, dict):
        return {key: as_values(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [as_values(value) for value in stored]
    return _unescaped(stored) if isinstance(stored, str) else stored


def as_typed(text: str) -> str:
    """An override, or a line of a config, with the texts in it that were kept from OmegaConf in a
    form of their own.
    """
    return re.sub(
        r"\$\{(?:text|stored):([0-9a-f]*)\}", lambda match: bytes.fromhex(match[1]).decode(), text
    )


def _marked_env(key: str, default: Any = _NO_DEFAULT) -> str:
    if default is _NO_DEFAULT:
        return f"{_MARK}{{oc.env:{key}}}"
    return f"{_MARK}{{oc.env:{key},{_argument(default)}}}"


def _marked_stored(hexadecimal: str) -> str:
    text = _text(hexadecimal)
    if not _is_interpolation(text):
        return _unescaped(text)
    return _BEFORE_BRACE.sub(
        lambda match: _half(match[1]) + ("${" if len(match[1]) % 2 else f"{_MARK}{{"), text
    )


def _stored(key: str, value: Any, marked: Any) -> Any:
    if isinstance(value, dict | list) and type(value) is type(marked) and len(value) == len(marked):
        if isinstance(value, list):
            return [_stored(key, *pair) for pair in zip(value, marked, strict=True)]
        return {
            name: _stored(f"{key}.{name}".lstrip("."), value[name], marked.get(name))
            for name in value
        }
    is_text = isinstance(marked, str) and (value is None or isinstance(value, str))
    if is_text and _MARK in marked and key.partition(".")[0] in PLACES:
        if key.endswith(".prompt"):
            raise ConfigError(
                f"{key}: the samples in the run folder begin with it: give the text itself"
            )
        return _escaped(marked)
    if repr(value) != repr(marked):
        raise _refusal(key)
    return _escaped(value) if isinstance(value, str) else value


def _refusal(key: str) -> ConfigError:
    places = "name, output_dir, init_from, and texts of data, logger and callbacks"
    return ConfigError(
        f"{key}: give the value itself: ${{oc.env:...}} is for secrets and places ({places})"
    )


def _escaped(marked: str) -> str:
    """A text as it is stored: in OmegaConf's syntax if it holds something of the environment, or
    looks as if.
    """
    if _MARK not in marked and ENVIRONMENT not in marked:
        return marked
    # Backslashes count only before an interpolation, and are written twice there.
    literal = _BEFORE_BRACE.sub(lambda match: match[1] * 2 + "\\${", marked)
    return _BEFORE_MARK.sub(lambda match: match[1] * 2 + "$", literal)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)


def _is_interpolation(text: str) -> bool:
    """Does a stored text stand for something of the environment? An even number of backslashes are
    themselves.
    """
    return ENVIRONMENT in text and re.search(r"(?<!\\)(\\\\)*\$\{oc\.env:", text) is not None


def _unescaped(text: str) -> str:
    """The value that a stored text was made of, unless it came from the environment."""
    if ENVIRONMENT not in text or _is_interpolation(text):
        return text
    return _BEFORE_BRACE.sub(lambda match: _half(match[1]) + "${", text)


def _half(backslashes: str) -> str:
    return backslashes[: len(backslashes) // 2]


def _argument(value: Any) -> str:
    """A default of `oc.env` as it is written there."""
    if value is None:
        return "null"
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z/<][\w./:<>-]*", text) else _quoted(text, "'")


def _as_override(node: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(node, list):
        return "[" + ",".join(map(_as_override, node)) + "]"
    if isinstance(node, str):
        return node if re.fullmatch(r"([\w./~-]|\$\{[\w.:/-]+\})+", node) else _quoted(node, '"')
    return "null" if node is None else str(node).lower()


def _quoted(text: str, quote: str) -> str:
    """Backslashes count only before a quote."""
    escaped = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", text)
    return quote + re.sub(r"(\\+)$", r"\1\1", escaped) + quote


def _env(key: str, default: Any = _NO_DEFAULT) -> str | None:
    if _readable is not None and key not in _readable:
        raise ConfigError(
            f"a file looks up {shorten(key)} in your environment; if it is yours, allow it:"
            f" {_allowed(key)}"
        )
    value = given(key)
    if value is not None:
        hide(value, f"${{oc.env:{key}}}")
        if value.startswith(("[", "{")):  # oc.decode makes several texts of it
            for part in re.findall(r"[^][{},:'\"\s]+", value):
                hide(part, f"${{oc.env:{key}}}")
        return value
    return oc.env(key) if default is _NO_DEFAULT else oc.env(key, default)


def _allowed(name: str) -> str:
    return f"variables=[{','.join(shorten(known) for known in sorted({*(_readable or ()), name}))}]"


def _text(hexadecimal: str) -> str:
    return bytes.fromhex(str(hexadecimal)).decode()


def _register(resolvers: dict[str, Callable[..., Any]]) -> None:
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "oc.env": _env,
    "text": _text,  # of the command line, as it was typed
    "stored": lambda hexadecimal: _unescaped(_text(hexadecimal)),
}
_register(_RESOLVERS)
