"""Is a composed config a valid call? Names, values and types are checked against the signatures it will call.

The signature of each `_target_` is the schema: nothing is declared twice, and third-party classes
(`torch.optim.AdamW`, `lightning.pytorch.Trainer`) are checked as strictly as ours. Ranges are pydantic
annotations of the signature (`PositiveInt`, `Ratio`).
"""

import functools
import importlib
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt, MinLen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from firstlight.errors import ConfigError, did_you_mean, has_hidden, one_line, shorten
from firstlight.interpolation import hide_environment

Ratio = Annotated[float, Field(ge=0, lt=1)]
"""A part of a whole that is never all of it: dropout, a test split."""
PositiveRatio = Annotated[float, Field(gt=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole that may be all of it: the nucleus of a distribution."""
FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteNonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy and torch both accept as a seed."""

NonEmpty = Annotated[str, Field(min_length=1)]

TARGETS = (
    *(f"firstlight.{part}." for part in ("model", "data", "decoding", "optim")),
    *(f"firstlight.training.{part}." for part in ("callbacks", "loggers", "trainer")),
    "torch.optim.",
    *(f"lightning.pytorch.{part}." for part in ("callbacks", "loggers", "plugins", "profilers", "strategies")),
)
"""Where the classes that a config names may come from: a config is data, and must not call whatever it likes."""
FUNCTIONS = ("firstlight.optim.", "torch.optim.")
"""Where a `_target_` may also be a function."""
ALLOW_TARGETS = "FIRSTLIGHT_ALLOW_TARGETS"
"""Environment variable: further packages whose classes a config may name, separated by commas."""


def check_config(config: DictConfig, entry: Callable[..., Any], key: str = "") -> dict[str, Any]:
    """Return `config` as plain data, ready to be built for a call of `entry`; `key` is where it is in a larger one.

    Raises:
        ConfigError: with one line for every key that `entry`, or the target of a node below it, would refuse.
    """
    plain = to_plain(config)
    shown = hide_environment(config, plain) if has_hidden() else plain
    problems = dict([*_call_problems(key, entry, plain, shown), *_node_problems(key, plain, shown)])
    # What one key refers to in another is one mistake, told where it was made.
    original = {key: text for key, text in problems.items() if not _is_reference(config, key)}
    if problems:
        raise ConfigError("\n".join((original or problems).values()))
    return plain


def _is_reference(config: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and last in node and OmegaConf.is_interpolation(node, last)


def to_plain(config: DictConfig) -> dict[str, Any]:
    """`config` with every interpolation resolved, as dicts, lists and scalars."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"{key}: a value is needed; give {key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_node(key: str, node: Any, contract: type) -> dict[str, Any]:
    """Return one section, checked, of a config that did not come from the command line: the one a checkpoint carries.

    Nothing of it has been called when this returns, and it can call nothing but the constructor of a `contract`.

    Raises:
        ConfigError: it names no subclass of `contract`, or is not a valid call of it.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: expected a section with a _target_, got {shorten(repr(node))}")
    if any("_target_" in str(child) for child in node.values() if isinstance(child, dict | list)):
        raise ConfigError(f"{key}: a section of a checkpoint may have one _target_, its own")
    if problems := dict(_node_problems(key, node, node)):
        raise ConfigError("\n".join(problems.values()))
    target = _locate(node["_target_"])
    if not (inspect.isclass(target) and issubclass(target, contract)):
        raise ConfigError(f"{key}._target_: {node['_target_']!r} is no {contract.__name__}")
    return node


def build(node: Any, key: str = "") -> Any:
    """Call every `_target_` of a checked config, innermost first (`_partial_` ones become `functools.partial`s).

    What hydra.utils.instantiate does, over plain data: no interpolation in it is resolved a second time, so that a
    config from elsewhere cannot say more than was checked.

    Raises:
        ConfigError: a constructor refused its values (ValueError or TypeError).
    """
    if isinstance(node, list):
        return [build(child, f"{key}.{n}") for n, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: build(child, _join(key, name)) for name, child in node.items() if not name.startswith("_")}
    if "_target_" not in node:
        return values
    call = functools.partial(_locate(node["_target_"]), **values)
    if node.get("_partial_"):
        return call
    try:
        return call()
    except (ValueError, TypeError) as error:
        raise blame(key, error) from error


def _locate(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def blame(key: str, error: Exception) -> ConfigError:
    """`error`, raised by the object that the section `key` of the config describes, as a mistake of the user's."""
    if isinstance(error, ConfigError):
        return error
    if missing := re.search(r"missing \d+ required .*?argument.*?: (.*)", str(error)):
        return ConfigError(f"{key}: {missing[1]} is needed")
    return ConfigError(f"{key}: {one_line(error)}")


Problems = Iterator[tuple[str, str]]
"""Keys, and what is wrong with each."""


def _node_problems(path: str, node: Any, shown: Any) -> Problems:
    """`shown` is `node` with texts in the place of what messages must not show."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _node_problems(_join(path, key), child, _part(shown, key))
    if isinstance(node, dict) and "_target_" in node:
        key, name = f"{path}._target_", node["_target_"]
        allowed = TARGETS + tuple(f"{p.strip()}." for p in os.environ.get(ALLOW_TARGETS, "").split(",") if p.strip())
        if not isinstance(name, str) or not name.startswith(allowed):
            named = shorten(repr(_part(shown, "_target_")))
            yield (
                key,
                f"{key}: {named} is not in a package that a config may name (firstlight, torch.optim, "
                f"Lightning's callbacks, loggers, ...); to allow yours, set {ALLOW_TARGETS}=its_package",
            )
            return
        try:
            target = _locate(name)
        except Exception as error:  # whatever its module raises on import
            yield key, f"{key}: {name!r} cannot be imported ({one_line(error)})"
            return
        home = f"{getattr(target, '__module__', '')}."
        is_own = inspect.isfunction(target) and not home.startswith(TARGETS)  # of a package the user allowed by name
        if not home.startswith(allowed) or not (
            inspect.isclass(target) or is_own or (inspect.isfunction(target) and home.startswith(FUNCTIONS))
        ):
            yield key, f"{key}: {name!r} is not a class that a config may name"
            return
        yield from _call_problems(path, target, node, shown)


def _part(shown: Any, key: Any) -> Any:
    return shown[key] if isinstance(shown, dict | list) else shown  # one text for a whole section


def _call_problems(path: str, target: Callable[..., Any], node: dict[str, Any], shown: Any) -> Problems:
    parameters, hints = _signature(target)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in given.items():
        where = _join(path, key)
        if key in parameters and parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY:
            hint = hints.get(key, Any)
            if not _fits(value, hint):
                yield where, f"{where}: expected {_show(hint)}, got {shorten(repr(_part(shown, key)))}"
        elif not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            owner = f"{target.__name__} has" if path else "there is"
            yield where, f"{where}: {owner} no '{key}'{did_you_mean(key, parameters)}"
    if not node.get("_partial_"):
        for key, p in parameters.items():
            by_name = p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
            if p.default is p.empty and by_name and key not in given:
                yield _join(path, key), f"{path or 'config'}: {target.__name__} needs '{key}'"


def _signature(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters and type hints of a call; `**kwargs` of a constructor stands for its parent's parameters."""
    if not inspect.isclass(target):
        return dict(inspect.signature(target).parameters), _hints(target)
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for cls in target.__mro__[:-1]:  # without object
        if "__init__" not in vars(cls):
            continue
        init = vars(cls)["__init__"]
        own = dict(list(inspect.signature(init).parameters.items())[1:])  # without self
        passes_on = [name for name, p in own.items() if p.kind is p.VAR_KEYWORD]
        parameters = {**own, **parameters}
        hints = {**_hints(init), **hints}
        if not passes_on:
            break
        parameters.pop(passes_on[0])
    return parameters, hints


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name imported for type checkers only: names of arguments are checked, not their types
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Could `value`, read from YAML or the command line, be passed where `hint` is declared?

    Checked as JSON in pydantic's strict mode: 2 is a float, a list is a tuple, a string is a path;
    but 2.5 or true is not an int and "3" is not a number.
    """
    if isinstance(value, dict) and "_target_" in value:
        return True  # an object still to be built: its own node is checked
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if not (isinstance(v, dict) and "_target_" in v)}
    elif isinstance(value, list):
        value = [v for v in value if not (isinstance(v, dict) and "_target_" in v)]
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, NameError, TypeError):  # a hint that pydantic cannot read: nothing to compare
        return True
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


_SIGNS: dict[Any, tuple[str, str]] = {Gt: (">", "gt"), Ge: (">=", "ge"), Lt: ("<", "lt"), Le: ("<=", "le")}


def _show(hint: Any) -> str:
    """A type hint in words: `int > 0`, `'a' or 'b'`, `float >= 0 and < 1 or null`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [b for extra in args[1:] for b in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        words = [f"{_SIGNS[type(b)][0]} {getattr(b, _SIGNS[type(b)][1])}" for b in bounds if type(b) in _SIGNS]
        non_empty = "non-empty " if any(isinstance(b, MinLen) for b in bounds) else ""
        return " ".join([non_empty + _show(args[0]), " and ".join(words)]).strip()
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_show, args)))
    if origin is not None:
        inner = ", ".join(_show(a) for a in args if a is not Ellipsis)
        return f"{getattr(origin, '__name__', origin)}[{inner}]" if inner else str(origin)
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}".lstrip(".")
