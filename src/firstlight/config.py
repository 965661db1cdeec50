"""Is a composed config a valid call? Names, values and types are checked against the signatures it
will call.

The signature of each `_target_` is the schema: nothing is declared twice, and third-party classes
(`torch.optim.AdamW`, `lightning.pytorch.Trainer`) are checked as strictly as ours. Ranges are
pydantic annotations of the signature (`PositiveInt`, `Ratio`).
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
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt, MinLen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from firstlight.errors import ConfigError, did_you_mean, one_line, shorten, shown
from firstlight.interpolation import why_unresolved

Ratio = Annotated[float, Field(ge=0, lt=1)]
"""A part of a whole that is never all of it: dropout, a test split."""
PositiveRatio = Annotated[float, Field(gt=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole that may be all of it: the nucleus of a distribution."""
FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteNonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy and torch both accept as a seed."""

Steps = Annotated[int, Field(gt=0, le=10**12)]
"""Of a run, or from one event to the next."""
VocabSize = Annotated[int, Field(gt=0, le=2**20)]
ContextLength = Annotated[int, Field(gt=0, le=2**24)]
BatchSize = Annotated[int, Field(gt=0, le=2**20)]
NewTokens = Annotated[int, Field(gt=0, le=10**6)]

NonEmpty = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
"""Names and paths: no file can have a NUL in its name."""

TARGETS = (
    *(f"firstlight.{part}." for part in ("model", "data", "decoding", "loss", "metrics", "optim")),
    *(f"firstlight.training.{part}." for part in ("callbacks", "loggers", "trainer")),
    "torch.optim.",
    *(f"lightning.pytorch.{part}." for part in ("callbacks", "loggers", "profilers")),
)
"""Where the classes that a config names may come from: a config is data, and must not call whatever
it likes."""
OURS = "firstlight.training.callbacks.early_stopping.EarlyStopping"
IN_PLACE_OF = {
    "lightning.pytorch.callbacks.EarlyStopping": OURS,
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping": OURS,
}
"""Classes of Lightning's, and ours that take the same arguments, with which a run can be resumed as
well."""
FUNCTIONS = ("firstlight.optim.", "torch.optim.")
"""Where a `_target_` may also be a function."""
ALLOW_TARGETS = "FIRSTLIGHT_ALLOW_TARGETS"
"""Environment variable: further packages whose classes a config may name, separated by commas."""


def check_config(config: DictConfig, entry: Callable[..., Any], key: str = "") -> dict[str, Any]:
    """Return `config` as plain data, ready to be built for a call of `entry`; `key` is where it is
    in a larger one.

    Raises:
        ConfigError: with one line for every key that `entry`, or the target of a node below it,
            would refuse.
    """
    plain = to_plain(config)
    problems = dict(_call_problems(key, entry, plain))
    if not problems:
        return plain
    # What one key refers to in another is one mistake, told where it was made.
    told = {where: text for where, text in problems.items() if not _is_reference(config, where)}
    if not told:  # all are references to the same mistake: the first one tells it
        seen: set[str] = set()
        for where, text in problems.items():
            problem = text.removeprefix(where)
            if problem not in seen:
                seen.add(problem)
                told[where] = text
    raise ConfigError("\n".join(told.values()))


def _is_reference(config: DictConfig, key: str) -> bool:
    """Is this key, or a section around it, written as a reference to another one?"""
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            return False
        if OmegaConf.is_interpolation(node, name):
            return True
        node = node.get(name)
    return False


def to_plain(config: DictConfig) -> dict[str, Any]:
    """`config` with every interpolation resolved, as dicts, lists and scalars."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"{key}: a value is needed; give {key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {why_unresolved(error)}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_node(key: str, node: Any, contract: type) -> dict[str, Any]:
    """Return one section, checked, of a config that did not come from the command line: the one a
    checkpoint carries.

    Nothing of it has been called when this returns, and it can call nothing but the constructor of
    a `contract`, or a function that says it returns one.

    Raises:
        ConfigError: it names no subclass of `contract`, or is not a valid call of it.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: expected a section with a _target_, got {shown(node)}")
    if any("_target_" in str(child) for child in node.values() if isinstance(child, dict | list)):
        raise ConfigError(f"{key}: a section of a checkpoint may have one _target_, its own")
    problems = dict(_node_problems(key, node, Any))
    if problems:
        raise ConfigError("\n".join(problems.values()))
    if not issubclass(made_by(node), contract):
        raise ConfigError(f"{key}._target_: {node['_target_']!r} is not a {contract.__name__}")
    return node


def made_by(node: dict[str, Any]) -> type:
    """The class of what a checked section describes: its `_target_`, or what that returns."""
    return _made_by(_locate(node["_target_"]))


def takes(node: dict[str, Any], name: str, value: Any) -> bool:
    """Is a section that names a `_target_` valid with `value` as its key `name`?"""
    return "_target_" in node and not list(_node_problems("", {**node, name: value}, Any))


def build(node: Any, key: str = "") -> Any:
    """Call every `_target_` of a checked config, innermost first (`_partial_` ones become
    `functools.partial`s).

    What hydra.utils.instantiate does, over plain data: no interpolation in it is resolved a second
    time, so that a config from elsewhere cannot say more than was checked.

    Raises:
        ConfigError: a constructor refused its values: one of torch's or Lightning's with any
            exception, ours and those of allowed packages with a ValueError or TypeError.
    """
    if isinstance(node, list):
        return [build(child, f"{key}.{n}") for n, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values: dict[str, Any] = {}
    for name, child in node.items():
        if not str(name).startswith("_"):
            values[name] = build(child, _join(key, name))
    if "_target_" not in node:
        return values
    call = functools.partial(_locate(node["_target_"]), **values)
    if node.get("_partial_"):
        return call
    try:
        return call()
    except Exception as error:
        is_library = node["_target_"].startswith(("torch.", "lightning."))
        if not is_library and not isinstance(error, ValueError | TypeError):
            raise  # a defect of the class: its author needs the traceback
        raise blame(key, error) from error


def _locate(name: str) -> Any:
    module, _, attribute = IN_PLACE_OF.get(name, name).rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def blame(key: str, error: Exception) -> ConfigError:
    """`error`, raised by the object that the section `key` of the config describes, as a mistake of
    the user's.
    """
    if isinstance(error, ConfigError):
        return error
    missing = re.search(r"missing \d+ required .*?argument.*?: (.*)", str(error))
    if missing is not None:
        return ConfigError(f"{key}: {missing[1]} is needed")
    return ConfigError(f"{key}: {one_line(error)}")


Problems = Iterator[tuple[str, str]]
"""Keys, and what is wrong with each."""


def _value_problems(path: str, value: Any, hint: Any) -> Problems:
    """What is wrong with a value where `hint` is declared, and with every `_target_` node in it."""
    if _is_node(value):
        yield from _node_problems(path, value, hint)
        return
    element = _element(hint)
    if isinstance(value, dict):
        wanted = _wanted(hint)
        if wanted is not None and wanted.classes:
            yield path, f"{path}: expected a section with a _target_, got {shown(value)}"
        elif element is Any and not _fits(value, hint):
            yield path, _misfit(path, value, hint)
        for key, child in value.items():
            # With an element of a known type, the value that does not fit is named, not the whole
            # section.
            if element is not Any or isinstance(child, dict | list):
                yield from _value_problems(_join(path, key), child, element)
        return
    if not _fits(value, hint):
        yield path, _misfit(path, value, hint)
    if isinstance(value, list):
        for number, child in enumerate(value):
            if isinstance(child, dict | list):
                yield from _value_problems(
                    _join(path, number), child, element if _is_node(child) else Any
                )


def _misfit(path: str, value: Any, hint: Any) -> str:
    way_out = ""
    wanted = _wanted(hint)
    if wanted is not None and len(wanted.classes) == 1 and isinstance(value, str):
        home = wanted.classes[0].__module__.split(".")  # firstlight.decoding.base
        if home[0] == "firstlight" and value.isidentifier():
            way_out = f"; to choose an option by its name: {home[1]}@{path}={shorten(value, 40)}"
    return f"{path}: expected {_show(hint)}, got {shown(value)}{way_out}"


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _node_problems(path: str, node: dict[str, Any], hint: Any) -> Problems:
    """What is wrong with a `_target_` node where `hint` is declared: its target, or else its
    arguments.
    """
    is_partial = node.get("_partial_", False)
    try:
        target = _target_of(path, node["_target_"])
        _check_made(path, target, node["_target_"], hint)
        _check_partial(path, is_partial, hint)
    except ConfigError as problem:
        yield f"{path}._target_", str(problem)
        return
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    yield from _call_problems(path, target, arguments, partial=is_partial)


def _target_of(path: str, name: Any) -> Callable[..., Any]:
    """What a `_target_` names, if a config may name it."""
    key = f"{path}._target_"
    names = [package.strip() for package in os.environ.get(ALLOW_TARGETS, "").split(",")]
    allowed = (*TARGETS, *(f"{package}." for package in names if package))
    package = name.partition(".")[0] if isinstance(name, str) else ""
    if not isinstance(name, str) or not name.startswith(allowed):
        yours = package if package.isidentifier() and package != "firstlight" else "its_package"
        raise ConfigError(
            f"{key}: {shown(name)} is not in a package that a config may name (firstlight,"
            " torch.optim, Lightning's callbacks, loggers, ...); to allow yours, set"
            f" {ALLOW_TARGETS}={shorten(yours, 40)}"
        )
    try:
        target = _locate(name)
    except Exception as error:  # whatever its module raises on import
        way_out = ""
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            way_out = f"; install {package}, or add the folder that holds it to PYTHONPATH"
        raise ConfigError(
            f"{key}: {name!r} cannot be imported ({one_line(error)}){way_out}"
        ) from None
    home = (  # what a module has imported is elsewhere at home
        f"{getattr(target, '__module__', '')}."
    )
    may_be_function = home.startswith(FUNCTIONS) or not home.startswith(TARGETS)
    is_callable = inspect.isclass(target) or (inspect.isfunction(target) and may_be_function)
    if not home.startswith(allowed) or not is_callable:
        raise ConfigError(f"{key}: {name!r} is not a class that a config may name")
    if inspect.isabstract(target):
        raise ConfigError(f"{key}: {name!r} is abstract; name one of its subclasses")
    return target


def _check_made(path: str, target: Callable[..., Any], name: str, hint: Any) -> None:
    wanted = _wanted(hint)
    if wanted is not None and not issubclass(_made_by(target), wanted.classes):
        kinds = " or ".join(kind.__name__ for kind in wanted.classes) or _show(hint)
        raise ConfigError(f"{path}._target_: {name!r} is not a {kinds}")


def _check_partial(path: str, is_partial: Any, hint: Any) -> None:
    key, wanted = f"{path}._partial_", _wanted(hint)
    if not isinstance(is_partial, bool):
        raise ConfigError(f"{key}: expected bool, got {shown(is_partial)}")
    if wanted is None or is_partial in wanted.partial:
        return
    if True in wanted.partial:
        raise ConfigError(f"{key}: must be true: it is completed later")
    raise ConfigError(f"{key}: must be left out: nothing completes it")


@dataclass(frozen=True)
class _Wanted:
    """What a `_target_` node must make; of no class: it must not be there, since a plain value is
    wanted.
    """

    classes: tuple[type, ...] = ()
    partial: frozenset[bool] = frozenset()
    """Whole objects (False), ones that are completed later (True), or both."""


def _wanted(hint: Any) -> _Wanted | None:
    """What a node must make where `hint` is declared; None: anything."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _wanted(args[0])
    if origin in (Union, types.UnionType):
        return _wanted_of_union(args)
    if origin is Callable:
        made: Any = args[-1] if args else Any
        return _Wanted((made,), frozenset({True})) if inspect.isclass(made) else None
    if origin in (Literal, list, tuple) or (origin is dict and args[-1] is not Any):
        return _Wanted()
    if origin is not None or not inspect.isclass(hint) or hint in (Any, object, dict):
        return None
    return _Wanted() if hint.__module__ == "builtins" else _Wanted((hint,), frozenset({False}))


def _wanted_of_union(hints: tuple[Any, ...]) -> _Wanted | None:
    together = _Wanted()
    for hint in hints:
        wanted = _wanted(hint)
        if wanted is None:
            return None
        together = _Wanted(together.classes + wanted.classes, together.partial | wanted.partial)
    return together


def _made_by(target: Callable[..., Any]) -> type:
    if inspect.isclass(target):
        return target
    made = _hints(target).get("return")
    return made if inspect.isclass(made) else object


def _element(hint: Any) -> Any:
    """The hint of what a container of this hint holds."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for arg in args:
            if _element(arg) is not Any:
                return _element(arg)
    if origin in (dict, list) and args:
        return args[-1]
    return Any


def _call_problems(
    path: str, target: Callable[..., Any], given: dict[str, Any], *, partial: bool = False
) -> Problems:
    parameters, hints = _signature(target)
    for key, value in given.items():
        where = _join(path, key)
        if key in parameters and parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY:
            yield from _value_problems(where, value, hints.get(key, Any))
        elif any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            yield from _value_problems(where, value, Any)
        else:
            owner = f"{target.__name__} has" if path else "there is"
            yield where, f"{where}: {owner} no '{key}'{did_you_mean(str(key), parameters)}"
    if partial:
        return
    for key, p in parameters.items():
        by_name = p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        if p.default is p.empty and by_name and key not in given:
            yield _join(path, key), f"{path or 'config'}: {target.__name__} needs '{key}'"


@functools.cache
def _signature(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters and type hints of a call; `**kwargs` of a constructor stands for its parent's
    parameters.
    """
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
    except (
        NameError
    ):  # a name imported for type checkers only: names of arguments are checked, not their types
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Could `value`, read from YAML or the command line, be passed where `hint` is declared?

    Checked as JSON in pydantic's strict mode: 2 is a float, a list is a tuple, a string is a path;
    but 2.5 or true is not an int and "3" is not a number.
    """
    if isinstance(value, dict):  # an object still to be built: its own node is checked
        value = {k: v for k, v in value.items() if not _is_node(v)}
    elif isinstance(value, list):
        value = [v for v in value if not _is_node(v)]
    try:
        text = json.dumps(value)
    except (
        TypeError,
        ValueError,
    ):  # what YAML has and JSON has not: dates, bytes, numbers of 5,000 digits
        return False
    try:
        _adapter(hint).validate_json(text, strict=True)
    except ValidationError:
        return False
    except (
        PydanticUserError,
        NameError,
        TypeError,
    ):  # a hint that pydantic cannot read: nothing to compare
        return True
    return True


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


_SIGNS: dict[Any, tuple[str, str]] = {
    Gt: (">", "gt"),
    Ge: (">=", "ge"),
    Lt: ("<", "lt"),
    Le: ("<=", "le"),
}


def _show(hint: Any) -> str:
    """A type hint in words: `int > 0`, `'a' or 'b'`, `float >= 0 and < 1 or null`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _show_bounded(args[0], args[1:])
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_show, args)))
    if hint is type(None):
        return "null"
    if origin is None:
        return getattr(hint, "__name__", str(hint))
    inner = ", ".join(_show(arg) for arg in args if arg is not Ellipsis)
    return f"{getattr(origin, '__name__', origin)}[{inner}]" if inner else str(origin)


def _show_bounded(hint: Any, annotations: tuple[Any, ...]) -> str:
    words = _show(hint)
    bounds: list[str] = []
    for annotation in annotations:
        # pydantic's Field holds the bounds that annotated_types gives one by one
        for bound in annotation.metadata if isinstance(annotation, FieldInfo) else [annotation]:
            if isinstance(bound, MinLen):
                words = f"non-empty {words}"
            elif type(bound) in _SIGNS:
                sign, name = _SIGNS[type(bound)]
                bounds.append(f"{sign} {getattr(bound, name)}")
    return f"{words} {' and '.join(bounds)}".strip()


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}".lstrip(".")
