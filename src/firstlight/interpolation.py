"""Interpolations (`${...}`) in a config: how they are resolved, and how they are stored with a run.

A value that comes from the environment (`${oc.env:SCRATCH}`) may be a secret. A run may have such
values where a secret or a place belongs. The config that is built has the value; the stored config
has the text instead, and no message shows the value. When a stored config is read again, it is
data: nothing in it is resolved.

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

from firstlight.dial import decided
from firstlight.errors import ConfigError, hide, shell_word, shorten
from firstlight.processes import given

ENVIRONMENT = "${oc.env:"
"""How an interpolation of an environment variable begins."""
_readable: set[str] | None = None
"""Environment variables that may be looked up; None: all."""
FORMS = "the forms are ${key}, ${oc.env:NAME} and ${now:%Y-%m-%d}; '\\${' is a text"
"""The forms of an interpolation, for messages."""
UNUSED = ("name", "output_dir", "init_from")
"""Keys that a resumed run does not use."""
PLACES = ("name", "output_dir", "init_from", "resume", "data", "logger", "callbacks")
"""Keys and sections of a run in which a text may come from the environment."""
_MARK = f"<{secrets.token_hex(8)}>"
"""Replaces the `$` of an interpolation of the environment; no text can contain it by chance."""
_BEFORE_BRACE = re.compile(r"(\\*)\$\{")
"""The backslashes before a `${`, which decide whether it is an interpolation."""
_BEFORE_MARK = re.compile(rf"(\\*){_MARK}")
_NO_DEFAULT = object()
"""Tells `${oc.env:NAME}` from `${oc.env:NAME,null}`."""


@contextmanager
def only_variables(names: Iterable[str] | None) -> Iterator[None]:
    """Within the block, texts may look up only the environment variables `names`; None: all.

    For texts that the user has not typed: a file from elsewhere could have secrets sent to any
    server.
    """
    global _readable
    before = _readable
    _readable = None if names is None else set(names)
    try:
        yield
    finally:
        _readable = before


def check_kept(config: DictConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """Return the config to store: `plain` with texts from the environment as interpolations.

    `plain` is `config` resolved, as `check_config` returns it.

    Raises:
        ConfigError: a value comes from the environment where no secret or place belongs.
    """
    # Resolve a second time, with resolvers that return a marked text in place of each value of the
    # environment: wherever the two results differ, the environment has had a part.
    _register({"oc.env": _marked_env, "stored": _marked_stored})
    try:
        marked = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        # A marked text is not what an outer interpolation expects:
        # ${oc.decode:${oc.env:N}}, ${parts.${oc.env:PART}}
        raise _refusal(error.full_key or "config") from None
    finally:
        _register(_RESOLVERS)
    return _stored("", plain, marked)


def why_unresolved(error: OmegaConfBaseException) -> str:
    """Say in one line what is wrong with an interpolation, and how one is written."""
    assert OmegaConf.is_config(error.parent_node)
    parent: Any = OmegaConf.to_container(error.parent_node, resolve=False)
    text = shorten(as_typed(str(parent[error.key])))
    if isinstance(error, UnsupportedInterpolationType):
        return f"{text}: no such resolver; {FORMS}"
    if isinstance(error, InterpolationKeyError):
        return f"{text}: no such key; {FORMS}"
    # OmegaConf's words: "TypeError raised while resolving interpolation: now() takes 1 ..."
    message = str(error).splitlines()[0]
    kind, _, reason = message.rpartition(" raised while resolving interpolation: ")
    if kind == "TypeError":
        return f"{text}: these are not the arguments that it takes; {FORMS}"
    return f"{text}: " + reason.strip('"')


def from_environment(stored: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the keys of a stored config that came from the environment, and their overrides."""
    for key, value in stored.items():
        where = f"{path}{key}"
        if isinstance(value, dict):
            yield from from_environment(value, f"{where}.")
        elif any(map(_is_interpolation, _texts(value))):
            yield where, _as_override(value)


def given_again(key: str, text: str) -> str:
    """The word of a command line that gives `key` its value from the environment again."""
    return f"{key}={shell_word(text)}"


def as_data(stored: Any) -> Any:
    """Escape a stored config so that OmegaConf finds nothing in it to resolve."""
    if isinstance(stored, dict):
        return {key: as_data(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [as_data(value) for value in stored]
    if isinstance(stored, str) and ("${" in stored or stored == "???"):
        # in hexadecimal, so that nothing of the text is left for OmegaConf's grammar
        return f"${{stored:{stored.encode().hex()}}}"
    return stored


def as_values(stored: Any) -> Any:
    """Undo the escapes of a stored config; interpolations of the environment stay as texts."""
    if isinstance(stored, dict):
        return {key: as_values(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [as_values(value) for value in stored]
    return _unescaped(stored) if isinstance(stored, str) else stored


def as_typed(text: str) -> str:
    """Decode the texts in an override, or in a line of a config, that were kept from OmegaConf."""
    return re.sub(
        r"\$\{(?:text|stored):([0-9a-f]*)\}", lambda match: bytes.fromhex(match[1]).decode(), text
    )


def _marked_env(key: str, default: Any = _NO_DEFAULT) -> str:
    """The resolver `oc.env` of `check_kept`: the interpolation itself, marked."""
    if default is _NO_DEFAULT:
        return f"{_MARK}{{oc.env:{key}}}"
    return f"{_MARK}{{oc.env:{key},{_argument(default)}}}"


def _marked_stored(hexadecimal: str) -> str:
    """The resolver `stored` of `check_kept`: a stored text, with its interpolations marked."""
    text = _text(hexadecimal)
    if not _is_interpolation(text):
        return _unescaped(text)

    def marked(match: re.Match[str]) -> str:
        backslashes = match[1]
        is_literal = len(backslashes) % 2 == 1
        return _half(backslashes) + ("${" if is_literal else f"{_MARK}{{")

    return _BEFORE_BRACE.sub(marked, text)


def _stored(key: str, value: Any, marked: Any) -> Any:
    """Store `value`, which is `marked` where the environment is replaced by interpolations.

    Raises:
        ConfigError: they differ where no secret or place belongs.
    """
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
    if _differ(value, marked):
        raise _refusal(key)
    return _escaped(value) if isinstance(value, str) else value


def _differ(value: Any, marked: Any) -> bool:
    """Whether the environment has decided a value."""
    # `check_config` has made whole floats ints where ints are wanted: 1e4 is 10000.
    if type(value) is int and isinstance(marked, float):
        return value != marked
    return repr(value) != repr(marked)  # as 1 == True


def _refusal(key: str) -> ConfigError:
    places = "name, output_dir, init_from, and texts of data, logger and callbacks"
    return ConfigError(
        f"{key}: give the value itself: ${{oc.env:...}} is for secrets and places ({places})"
    )


def _escaped(marked: str) -> str:
    """Write a text as it is stored."""
    if _MARK not in marked and ENVIRONMENT not in marked:
        return marked
    # It holds something of the environment, or looks as if: in OmegaConf's syntax.
    # Backslashes count only before an interpolation, and are written twice there.
    literal = _BEFORE_BRACE.sub(lambda match: match[1] * 2 + "\\${", marked)
    return _BEFORE_MARK.sub(lambda match: match[1] * 2 + "$", literal)


def _texts(node: Any) -> Iterator[str]:
    """Yield every text in plain data, without the keys."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from _texts(child)
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child)


def _is_interpolation(text: str) -> bool:
    """Whether a stored text contains an interpolation of the environment."""
    # An even number of backslashes before it are themselves, an odd number escapes it.
    return ENVIRONMENT in text and re.search(r"(?<!\\)(\\\\)*\$\{oc\.env:", text) is not None


def _unescaped(text: str) -> str:
    """Undo `_escaped`, unless the text contains an interpolation of the environment."""
    if ENVIRONMENT not in text or _is_interpolation(text):
        return text
    return _BEFORE_BRACE.sub(lambda match: _half(match[1]) + "${", text)


def _half(backslashes: str) -> str:
    return backslashes[: len(backslashes) // 2]


def _argument(value: Any) -> str:
    """Write a default as an argument of `${oc.env:NAME,default}`."""
    if value is None:
        return "null"
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z/<][\w./:<>-]*", text) else quoted(text, "'")


def _as_override(node: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(node, list):
        return "[" + ",".join(map(_as_override, node)) + "]"
    if isinstance(node, str):
        is_plain = re.fullmatch(r"([\w./~-]|\$\{[\w.:/-]+\})+", node) is not None
        return node if is_plain else quoted(node)
    return "null" if node is None else str(node).lower()  # True is true


def quoted(text: str, quote: str = '"') -> str:
    """Write `text` in quotes, as the grammars of Hydra and OmegaConf read it."""
    # Backslashes count only before a quote, the last quote included.
    escaped = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", text)
    return quote + re.sub(r"(\\+)$", r"\1\1", escaped) + quote


def _env(key: str, default: Any = _NO_DEFAULT) -> str | None:
    """The resolver `oc.env`, for allowed variables; their values are hidden from messages.

    Raises:
        ConfigError: the variable may not be looked up; see `only_variables`.
    """
    if _readable is not None and key not in _readable:
        raise ConfigError(
            f"a file looks up {shorten(key)} in your environment; if it is yours, allow it:"
            f" {_allowed(key)}"
        )
    # As the process was started: `processes.begin` has taken some variables away.
    value = given(key)
    if value is not None:
        hide(value, f"${{oc.env:{key}}}")
        if value.startswith(("[", "{")):  # oc.decode makes a list or dict of it, of several texts
            for part in re.findall(r"[^][{},:'\"\s]+", value):
                hide(part, f"${{oc.env:{key}}}")
        return value
    return oc.env(key) if default is _NO_DEFAULT else oc.env(key, default)


def _allowed(name: str) -> str:
    """The override that allows `name` beside the variables that are allowed already."""
    names = sorted({*(_readable or ()), name})
    return f"variables=[{','.join(map(shorten, names))}]"


def _text(hexadecimal: str) -> str:
    return bytes.fromhex(str(hexadecimal)).decode()  # OmegaConf makes a number of 31 or 1e5


def _register(resolvers: dict[str, Callable[..., Any]]) -> None:
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "oc.env": _env,
    "text": _text,  # a text of the command line, as it was typed
    "stored": lambda hexadecimal: _unescaped(_text(hexadecimal)),
    "dial": decided,
}


def register_resolvers() -> None:
    """Let configs use our resolvers, as importing this module does: they may be put away since."""
    _register(_RESOLVERS)


register_resolvers()
