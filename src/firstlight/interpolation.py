"""What `${...}` in a config stands for, and what of it is kept with a run.

A value that comes from the environment (`${oc.env:SCRATCH}`) may be a secret. The config that is built has it; the one
that is stored has the text in its place, and no message shows it. A stored config is data when it is read again:
nothing in it is resolved.

A stored text that holds `${oc.env:` is in OmegaConf's syntax, a backslash before each `${` that is no interpolation;
every other stored text is as it is.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException, UnsupportedInterpolationType
from omegaconf.resolvers import oc

from firstlight.errors import ConfigError, hide, shell_word, shorten
from firstlight.processes import given

ENVIRONMENT = "${oc.env:"
_readable: set[str] | None = None
"""Variables of the environment that may be looked up; None: all."""
FORMS = "the forms are ${key}, ${oc.env:NAME} and ${now:%Y-%m-%d}; '\\${' is a text"
"""Of interpolations, for messages."""
UNUSED = ("name", "output_dir", "init_from")
"""Keys that a continued run has no use for."""
_NO_DEFAULT = object()


@contextmanager
def only_variables(names: Iterable[str] | None) -> Iterator[None]:
    """Within the block, let texts look up no other variables of the environment than `names`; None: all.

    For texts that the user has not typed: a file from elsewhere could have secrets sent wherever it likes.
    """
    global _readable
    before, _readable = _readable, None if names is None else set(names)
    try:
        yield
    finally:
        _readable = before


def check_kept(config: DictConfig, plain: dict[str, Any]) -> dict[str, Any]:
    """The config to store: `plain`, which is `config` resolved, with texts from the environment as interpolations.

    Numbers and booleans are stored as they are, wherever they come from: curves and the shapes of weights tell them
    anyway, and a run could not be continued, nor its model built, without them.

    Raises:
        ConfigError: a value depends on the environment in a way that no text can say, or will be seen in the run.
    """
    stored = _stored(plain, _masked(config), "")
    for key, text in from_environment(stored):
        if key.startswith(("model.", "tokenizer.")):
            raise ConfigError(f"{key}: a checkpoint has to tell it: give the value itself, not {text}")
        if key.endswith(".prompt"):
            raise ConfigError(f"{key}: the samples in the run folder begin with it: give the text itself, not {text}")
    return stored


def why_unresolved(error: OmegaConfBaseException) -> str:
    """What is wrong with an interpolation, in a line: its text, and how it is written."""
    parent = OmegaConf.to_container(error.parent_node, resolve=False) if OmegaConf.is_config(error.parent_node) else {}
    text = shorten(as_typed(str(parent[error.key])))  # type: ignore[index]
    kind, _, reason = str(error).splitlines()[0].rpartition(" raised while resolving interpolation: ")
    if isinstance(error, UnsupportedInterpolationType):
        return f"{text}: there is no such resolver; {FORMS}"
    if isinstance(error, InterpolationKeyError):
        return f"{text}: there is no such key; {FORMS}"
    if kind == "TypeError":
        return f"{text}: these are not the arguments that it takes; {FORMS}"
    return f"{text}: " + reason.strip('"')


def hide_environment(config: DictConfig, plain: Any) -> Any:
    """Keep what has come from the environment out of messages; return `plain` as it may be shown."""
    try:
        shown = _masked(config)
    except ConfigError:  # what cannot be kept may be used all the same
        return plain
    for value, text in _pairs(plain, shown):
        hide(value, text)
    return shown


def from_environment(stored: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The keys of a stored config whose values came from the environment, and the values as they are given again."""
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
    """A stored config as the values that it was made of; what came from the environment stays text."""
    if isinstance(stored, dict):
        return {key: as_values(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [as_values(value) for value in stored]
    return _unescaped(stored) if isinstance(stored, str) else stored


def as_typed(text: str) -> str:
    """An override, or a line of a config, with the texts in it that were kept from OmegaConf in a form of their own."""
    return re.sub(r"\$\{(?:text|stored):([0-9a-f]*)\}", lambda match: bytes.fromhex(match[1]).decode(), text)


def _masked(config: DictConfig) -> Any:
    """`config` resolved once more, with texts in the place of what comes from the environment.

    Raises:
        ConfigError: the environment decides what is looked up, which no text can stand for.
    """
    mark, texts = secrets.token_hex(8), list[str]()

    def mask(text: str) -> str:
        texts.append(text)
        return f"<{mark}:{len(texts) - 1}>"

    def env(key: str, default: Any = _NO_DEFAULT) -> str:
        return mask(f"${{oc.env:{key}}}" if default is _NO_DEFAULT else f"${{oc.env:{key},{_argument(default)}}}")

    def decode(text: str | None, _parent_: Any, _node_: Any) -> Any:
        return mask(f"${{oc.decode:{text}}}") if mark in str(text) else oc.decode(text, _parent_, _node_)

    def create(content: Any, _parent_: Any) -> Any:
        is_text = isinstance(content, str) and mark in content
        return mask(f"${{oc.create:{content}}}") if is_text else oc.create(content, _parent_)

    def stored(hexadecimal: str) -> str:
        text = _text(hexadecimal)
        return mask(text) if _is_interpolation(text) else _unescaped(text)

    def unmask(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: unmask(child) for key, child in node.items()}
        if isinstance(node, list):
            return [unmask(child) for child in node]
        if not isinstance(node, str) or (mark not in node and ENVIRONMENT not in node):
            return node
        # Backslashes count before an interpolation, which a mask is going to be.
        escaped = re.sub(rf"(\\*)(\$\{{|(?=<{mark}:))", lambda m: m[1] * 2 + ("\\${" if m[2] else ""), node)
        return unfold(escaped)

    def unfold(text: str) -> str:
        return re.sub(rf"<{mark}:(\d+)>", lambda match: unfold(texts[int(match[1])]), text)

    _register({"oc.env": env, "oc.decode": decode, "oc.create": create, "stored": stored})
    try:
        return unmask(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        key = error.full_key or "config"
        raise ConfigError(f"{key}: what the environment looks up cannot be kept with a run: give the value") from None
    finally:
        _register(_RESOLVERS)


def _stored(value: Any, text: Any, path: str) -> Any:
    if isinstance(text, str) and _is_interpolation(text):
        return value if isinstance(value, bool | int | float) else text
    if isinstance(value, dict) and isinstance(text, dict) and value.keys() == text.keys():
        return {key: _stored(value[key], text[key], f"{path}.{key}".lstrip(".")) for key in value}
    if isinstance(value, list) and isinstance(text, list) and len(value) == len(text):
        return [_stored(*pair, path) for pair in zip(value, text, strict=True)]
    if repr(value) != repr(as_values(text)):
        raise ConfigError(f"{path}: what the environment looks up cannot be kept with a run: give the value")
    return text


def _pairs(value: Any, text: Any) -> Iterator[tuple[str, str]]:
    """Texts that came from the environment, and what stands for each."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _pairs(child, text[key] if isinstance(text, dict | list) else text)
    if isinstance(value, str) and _is_interpolation(str(text)):
        yield value, str(text)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)


def _is_interpolation(text: str) -> bool:
    """Does a stored text stand for something of the environment? An even number of backslashes are themselves."""
    return ENVIRONMENT in text and re.search(r"(?<!\\)(\\\\)*\$\{oc\.env:", text) is not None


def _unescaped(text: str) -> str:
    """The value that a stored text was made of, unless it came from the environment."""
    if ENVIRONMENT not in text or _is_interpolation(text):
        return text
    return re.sub(r"(\\+)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", text)


def _argument(value: Any) -> str:
    """A default of `oc.env` as it is written there."""
    if value is None:
        return "null"
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z/<][\w./:<>-]*", text) else _quoted(text, "'")


def _as_override(node: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(node, dict):
        return "{" + ",".join(f"{key}:{_as_override(value)}" for key, value in node.items()) + "}"
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
            f"a file looks up {shorten(key)} in your environment; if it is yours, allow it: {_allowed(key)}"
        )
    value = given(key)
    if value is not None:
        hide(value, f"${{oc.env:{key}}}")
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
    "oc.decode": oc.decode,
    "oc.create": oc.create,
    "text": _text,  # of the command line, as it was typed
    "stored": lambda hexadecimal: _unescaped(_text(hexadecimal)),
}
_register(_RESOLVERS)
