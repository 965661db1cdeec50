"""Check a composed config against the signatures that it will call, and build its objects.

The signature of each `_target_` is the schema: nothing is declared twice, and third-party classes
(`torch.optim.AdamW`, `lightning.pytorch.Trainer`) are checked as strictly as ours. Ranges are
pydantic annotations of the signature (`PositiveInt`, `Ratio`).
"""

import copy
import functools
import importlib
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from firstlight.errors import ConfigError, did_you_mean, one_line, shorten, shown, with_article
from firstlight.interpolation import why_unresolved
from firstlight.packages import GROUP, found

Ratio = Annotated[float, Field(ge=0, lt=1)]
"""A part of a whole, never the whole itself: dropout, a test split."""
PositiveRatio = Annotated[float, Field(gt=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole, or the whole itself: the nucleus of a distribution."""
Percentage = Annotated[
    str, Field(pattern=r"^[0-9]{1,2}(\.[0-9]{1,6})?%$", description="a share such as 2%")
]
"""A part of a whole, never the whole itself, as it reads best: 2%."""
FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteNonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Timeout = Annotated[float, Field(ge=1, le=86_400)]
LAST_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0, lt=LAST_SEED + 1)]
"""A seed that numpy and torch both accept."""

Steps = Annotated[int, Field(gt=0, le=10**12)]
"""Optimizer steps: the length of a run, or the interval between two events."""
VocabSize = Annotated[int, Field(gt=0, le=2**20)]
ContextLength = Annotated[int, Field(gt=0, le=2**24)]
BatchSize = Annotated[int, Field(gt=0, le=2**20)]
NewTokens = Annotated[int, Field(gt=0, le=10**6)]

NonEmpty = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
"""A name or a path. No file can have a NUL in its name."""

TARGETS = (
    *(f"firstlight.{part}." for part in ("model", "data", "decoding", "loss", "metrics", "optim")),
    *(f"firstlight.training.{part}." for part in ("callbacks", "loggers", "trainer")),
    "torch.optim.",
    *(f"lightning.pytorch.{part}." for part in ("callbacks", "loggers", "profilers")),
)
"""Packages whose classes a config may name. A config is data: it must not call just anything."""
_EARLY_STOPPING = "firstlight.training.callbacks.early_stopping.EarlyStopping"
_MODEL_SUMMARY = "firstlight.training.callbacks.model_summary.ModelSummary"
_TIMER = "firstlight.training.callbacks.timer.Timer"
IN_PLACE_OF = {
    "lightning.pytorch.callbacks.EarlyStopping": _EARLY_STOPPING,
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping": _EARLY_STOPPING,
    "lightning.pytorch.callbacks.ModelSummary": _MODEL_SUMMARY,
    "lightning.pytorch.callbacks.model_summary.ModelSummary": _MODEL_SUMMARY,
    "lightning.pytorch.callbacks.Timer": _TIMER,
    "lightning.pytorch.callbacks.timer.Timer": _TIMER,
}
"""Lightning's classes, and ours that replace them: same arguments, but resumed exactly."""
NOT_IN_CONFIG = "not_in_config"
"""Attribute of a class: its arguments that a config may not give, and what to do instead."""
FUNCTIONS = ("firstlight.optim.", "torch.optim.")
"""Packages in which a `_target_` may also be a function."""
ALLOW_TARGETS = "FIRSTLIGHT_ALLOW_TARGETS"
"""Environment variable: more packages whose classes a config may name, separated by commas."""


def check_config(config: DictConfig, entry: Callable[..., Any], key: str = "") -> dict[str, Any]:
    """Check `config` as the arguments of `entry`; return it as plain data, ready to be built.

    `key` is the place of `config` in a larger one: "" for the whole.

    Raises:
        ConfigError: with one line for every key that `entry`, or the `_target_` of a section in it,
            would refuse.
    """
    missing = {_join(key, where): where for where in _missing(config)}
    plain = to_plain(_with_null(config, missing.values()))
    problems = dict(_call_problems(key, entry, plain))
    if problems:
        with_ints = _with_whole_numbers(plain, key, problems)
        remaining = dict(_call_problems(key, entry, with_ints))
        mended = [where for where in problems if where not in remaining]
        plain = _with_whole_numbers(plain, key, mended)
        problems = {where: text for where, text in problems.items() if where in remaining}
    problems |= {where: _needed(where) for where in missing}
    if not problems:
        return plain
    # A bad value that others refer to (${model.context_length}) is one mistake: report it where it
    # was made, not at each reference.
    told = {where: text for where, text in problems.items() if not _is_reference(config, where)}
    if not told:  # the mistake is not in this section: report each text once, at its first place
        seen: set[str] = set()
        for where, text in problems.items():
            problem = text.removeprefix(where)
            if problem not in seen:
                seen.add(problem)
                told[where] = text
    raise ConfigError("\n".join(told.values()))


def _needed(key: str) -> str:
    return f"{key}: a value is needed; give {key}=..."


def _missing(config: DictConfig) -> list[str]:
    """The keys of `config` that have no value, ???, as dotted keys."""
    # Not OmegaConf.missing_keys, which resolves interpolations, also those to what is missing.
    plain: Any = OmegaConf.to_container(config, resolve=False)
    sections, found = [("", plain)], list[str]()
    while sections:
        path, section = sections.pop()
        for name, value in section.items():
            if isinstance(value, dict):
                sections.append((_join(path, name), value))
            elif value == "???":
                found.append(_join(path, name))
    return found


def _with_null(config: DictConfig, places: Iterable[str]) -> DictConfig:
    """`config`, or a copy of it with null at `places`, so that the rest can be resolved."""
    changed = config
    for place in places:
        if changed is config:
            changed = copy.deepcopy(config)
        OmegaConf.update(changed, place, None)
    return changed


def _with_whole_numbers(plain: dict[str, Any], key: str, places: Iterable[str]) -> dict[str, Any]:
    """A copy of `plain`, the section `key`, in which whole floats at `places` are ints.

    Hydra and YAML read `max_tokens=1e9` as a float.
    """
    changed = copy.deepcopy(plain)
    for where in places:
        *above, last = where.removeprefix(f"{key}.").split(".")
        node: Any = changed
        for name in above:
            if isinstance(node, list):
                node = node[int(name)]
            else:
                node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            node[last] = whole_number(node[last])
    return changed


def whole_number(value: Any) -> Any:
    """A float without a fraction as an int, also in a list; any other value as it is."""
    if isinstance(value, list):
        return [whole_number(element) for element in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_reference(config: DictConfig, key: str) -> bool:
    """Whether `key`, or a section around it, is written as a reference to another key."""
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            return False
        if OmegaConf.is_interpolation(node, name):
            return True
        node = node.get(name)
    return False


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Resolve every interpolation of `config`; return it as dicts, lists and scalars.

    Raises:
        ConfigError: a value is missing, or an interpolation cannot be resolved.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(_needed(str(error.full_key))) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {why_unresolved(error)}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def take(config: DictConfig, key: str, default: Any = None) -> Any:
    """Remove `key` from `config`, and return its value, or `default` if it has none.

    Raises:
        ConfigError: it is an interpolation that cannot be resolved.
    """
    try:
        with open_dict(config):
            return config.pop(key, default)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {why_unresolved(error)}") from None


def check_node(key: str, node: Any, contract: type) -> dict[str, Any]:
    """Check one section of a config that came with a checkpoint, which is not trusted; return it.

    Nothing has been called when this returns. Building the section calls nothing but the
    constructor of a `contract`, or a function that says it returns one.

    Raises:
        ConfigError: it names no subclass of `contract`, or is not a valid call of it.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: expected a section with a _target_, got {shown(node)}")
    # As text, at any depth: a checkpoint of ours has no second target in such a section.
    containers = [child for child in node.values() if isinstance(child, dict | list)]
    if any("_target_" in str(child) for child in containers):
        raise ConfigError(f"{key}: a section of a checkpoint may have one _target_, its own")
    problems = dict(_node_problems(key, node, Any))
    if problems:
        raise ConfigError("\n".join(problems.values()))
    if not issubclass(made_by(node), contract):
        raise ConfigError(f"{key}._target_: {_not_a(node, contract.__name__)}")
    return node


def made_by(node: dict[str, Any]) -> type:
    """The class of what a section describes: its `_target_`, or what that function returns."""
    target = _locate(node["_target_"])
    if inspect.isclass(target):
        return target
    made = _hints(target).get("return")
    return made if inspect.isclass(made) else object


def _not_a(node: dict[str, Any], kind: str) -> str:
    """Say that what a section describes is no `kind`, and why if that can be told."""
    if made_by(node) is object:  # a function without a type after its arrow
        return (
            f"the function {node['_target_']!r} does not say that it returns {with_article(kind)}:"
            f" write def ...(...) -> {kind}, with the class imported at run time"
        )
    return f"{node['_target_']!r} is not {with_article(kind)}"


def takes(node: dict[str, Any], name: str, value: Any) -> bool:
    """Whether the section `node` names a `_target_`, and is valid with `value` as its `name`."""
    return "_target_" in node and not list(_node_problems("", {**node, name: value}, Any))


def argument(node: dict[str, Any], name: str) -> Any:
    """The value of `name` in a call of the section `node`: its own, or the signature's default."""
    if name in node:
        return node[name]
    parameters, _ = _signature(_locate(node["_target_"]))
    return parameters[name].default


def unlisted_arguments(node: dict[str, Any]) -> dict[str, str | None]:
    """The arguments that the section `node` may have and does not list.

    With what to do instead for each that a config may not give, otherwise None. Nothing if the
    section makes nothing, or its `_target_` cannot be imported.
    """
    try:
        target = _target_of("", node["_target_"]) if _is_node(node) else None
    except ConfigError:  # said when the section is checked
        target = None
    if target is None:
        return {}
    refused: Mapping[str, str] = getattr(target, NOT_IN_CONFIG, {})
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters, _ = _signature(target)
    names = [name for name, parameter in parameters.items() if parameter.kind in by_name]
    return {name: refused.get(name) for name in names if name not in node}


def build(node: Any, key: str = "") -> Any:
    """Call every `_target_` of a checked config, innermost first.

    Those with `_partial_: true` become `functools.partial`s. This is hydra.utils.instantiate for
    plain data: no interpolation is resolved a second time, so a config from elsewhere can do no
    more than what was checked.

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
    call = _Call(_locate(node["_target_"]), **values)
    call.name, call.made = node["_target_"], made_by(node)
    if node.get("_partial_"):
        return call
    try:
        return call()
    except Exception as error:
        is_library = node["_target_"].startswith(("torch.", "lightning."))
        if not is_library and not isinstance(error, ValueError | TypeError):
            raise  # a defect of the class: its author needs the traceback
        raise blame(key, error) from error


class _Call(functools.partial[Any]):
    """A call of a `_target_`, which must return what its annotation says.

    Raises:
        TypeError: a function returns something else, such as None if its return is forgotten.
    """

    name: str
    made: type

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        result = super().__call__(*args, **kwargs)
        if not isinstance(result, self.made):
            found = "None (is its return missing?)" if result is None else shown(result)
            raise TypeError(f"{self.name} returned {found}, not what it says: {self.made.__name__}")
        return result


def _locate(name: str) -> Any:
    module, _, attribute = IN_PLACE_OF.get(name, name).rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def blame(key: str, error: Exception) -> ConfigError:
    """Turn `error`, raised by the object of the section `key`, into a mistake of the user's."""
    if isinstance(error, ConfigError):
        return error
    # Python's own words: "Adam.__init__() missing 1 required positional argument: 'params'"
    missing = re.search(r"missing \d+ required .*?argument.*?: (.*)", str(error))
    if missing is not None:
        return ConfigError(f"{key}: {missing[1]} is needed")
    return ConfigError(f"{key}: {one_line(error)}")


Problems = Iterator[tuple[str, str]]
"""Pairs of a key and what is wrong with its value."""


def _value_problems(path: str, value: Any, hint: Any) -> Problems:
    """Yield what is wrong with `value` as a `hint`, and with every `_target_` node in it."""
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
            # dict[str, int]: name the one value that does not fit, not the whole section
            if element is not Any or isinstance(child, dict | list):
                yield from _value_problems(_join(path, key), child, element)
        return
    if not _fits(value, hint):
        yield path, _misfit(path, value, hint)
    if isinstance(value, list):
        for number, child in enumerate(value):
            # Plain elements were checked above, as parts of the whole list.
            if isinstance(child, dict | list):
                child_hint = element if _is_node(child) else Any
                yield from _value_problems(_join(path, number), child, child_hint)


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
    """Yield what is wrong with a `_target_` node as a `hint`: its target, or else its arguments."""
    is_partial = node.get("_partial_", False)
    try:
        target = _target_of(path, node["_target_"])
        _check_made(path, node, hint)
    except ConfigError as problem:
        # The arguments of a wrong target say nothing: they would be reported as unknown keys.
        yield f"{path}._target_", str(problem)
        return
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    yield from _call_problems(path, target, arguments, partial=is_partial)


def _target_of(path: str, name: Any) -> Callable[..., Any]:
    """Import what a `_target_` names.

    Raises:
        ConfigError: a config may not name it, or it cannot be imported.
    """
    key = f"{path}._target_"
    names = [package.strip() for package in os.environ.get(ALLOW_TARGETS, "").split(",")]
    names += [package.module for package in found().packages]
    allowed = (*TARGETS, *(f"{package}." for package in names if package))
    if not isinstance(name, str) or not name.startswith(allowed):
        package = name.partition(".")[0] if isinstance(name, str) else ""
        yours = package if package.isidentifier() and package != "firstlight" else "its_package"
        raise ConfigError(
            f"{key}: {shown(name)} is not in a package that a config may name (firstlight,"
            " torch.optim, Lightning's callbacks, loggers, ...); to allow yours, set"
            f" {ALLOW_TARGETS}={shorten(yours, 40)}, or declare its entry point {GROUP}"
        )
    target = _imported(key, name)
    # The module that defines it. A name that an allowed module has merely imported
    # (torch.optim.adam.torch.load) must not pass.
    home = f"{getattr(target, '__module__', '')}."
    may_be_function = home.startswith(FUNCTIONS) or not home.startswith(TARGETS)
    is_callable = inspect.isclass(target) or (inspect.isfunction(target) and may_be_function)
    if not home.startswith(allowed) or not is_callable:
        raise ConfigError(f"{key}: {name!r} is not a class that a config may name")
    if inspect.isabstract(target):
        raise ConfigError(f"{key}: {name!r} is abstract; name one of its subclasses")
    return target


def _imported(key: str, name: str) -> Any:
    """Import what the dotted `name` refers to.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return _locate(name)
    except Exception as error:  # whatever its module raises on import
        package, way_out = name.partition(".")[0], ""
        # The package itself is missing, not one that it needs.
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            way_out = f"; install {package}, or add the folder that holds it to PYTHONPATH"
        raise ConfigError(
            f"{key}: {name!r} cannot be imported ({one_line(error)}){way_out}"
        ) from None


def _check_made(path: str, node: dict[str, Any], hint: Any) -> None:
    """Check that `node` makes what `hint` asks for: an object of its class, whole or partial.

    Raises:
        ConfigError: it does not.
    """
    wanted = _wanted(hint)
    if wanted is not None and not issubclass(made_by(node), wanted.classes):
        kinds = " or ".join(kind.__name__ for kind in wanted.classes) or _show(hint)
        raise ConfigError(f"{path}._target_: {_not_a(node, kinds)}")
    key, is_partial = f"{path}._partial_", node.get("_partial_", False)
    if not isinstance(is_partial, bool):
        raise ConfigError(f"{key}: expected bool, got {shown(is_partial)}")
    if wanted is None or is_partial in wanted.partial:
        return
    if True in wanted.partial:
        raise ConfigError(f"{key}: must be true: it is completed later")
    raise ConfigError(f"{key}: must be left out: nothing completes it")


@dataclass(frozen=True)
class _Wanted:
    """What a `_target_` node must make. Without classes: a plain value is wanted, not a node."""

    classes: tuple[type, ...] = ()
    partial: frozenset[bool] = frozenset()
    """Whole objects (False), ones that are completed later (True), or both."""


def _wanted(hint: Any) -> _Wanted | None:
    """What a node must make to be a `hint`; None: anything."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:  # a range
        return _wanted(args[0])
    if origin in (Union, types.UnionType):
        together = _Wanted()
        for arg in args:
            wanted = _wanted(arg)
            if wanted is None:
                return None
            together = _Wanted(together.classes + wanted.classes, together.partial | wanted.partial)
        return together
    if origin is Callable:  # Callable[..., Optimizer]: a partial that will make an Optimizer
        made: Any = args[-1] if args else Any
        return _Wanted((made,), frozenset({True})) if inspect.isclass(made) else None
    if origin in (Literal, list, tuple) or (origin is dict and args[-1] is not Any):
        return _Wanted()
    if origin is not None or not inspect.isclass(hint) or hint in (Any, object, dict):
        return None
    if hint.__module__ == "builtins":  # int, str, bool
        return _Wanted()
    return _Wanted((hint,), frozenset({False}))


def _element(hint: Any) -> Any:
    """The hint of the elements of a dict or list with this `hint`; Any if it says nothing."""
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
    """Yield what is wrong with a call of `target` with the arguments `given`."""
    parameters, hints = _signature(target)
    refused: Mapping[str, str] = getattr(target, NOT_IN_CONFIG, {})
    # Each argument: is there such a parameter, and does the value fit?
    for key, value in given.items():
        where = _join(path, key)
        if key in refused:
            yield where, f"{where}: {refused[key]}"
        elif key in parameters and parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY:
            yield from _value_problems(where, value, hints.get(key, Any))
        elif any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            yield from _value_problems(where, value, Any)
        else:
            owner = f"{target.__name__} has no '{key}'" if path else "no such key"
            yield where, f"{where}: {owner}{did_you_mean(str(key), parameters)}"
    if partial:  # what is missing is given later
        return
    for key, p in parameters.items():
        by_name = p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        if p.default is p.empty and by_name and key not in given:
            yield _join(path, key), f"{path or 'config'}: {target.__name__} needs '{key}'"


@functools.cache
def _signature(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters and type hints of a call.

    `**kwargs` of a constructor stands for the parameters of its parent's constructor.
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
    except NameError:
        # A type that is imported under TYPE_CHECKING only, in somebody else's package. The names of
        # arguments are checked even so, their types are not.
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value`, read from YAML or the command line, can be passed as a `hint`.

    Checked as JSON in pydantic's strict mode: 2 is a float, a list is a tuple, a string is a path;
    but 2.5 or true is not an int and "3" is not a number.
    """
    # Nodes are not built yet: `_node_problems` checks them.
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if not _is_node(v)}
    elif isinstance(value, list):
        value = [v for v in value if not _is_node(v)]
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # YAML, not JSON: dates, bytes, numbers of 5,000 digits
        return False
    try:
        _adapter(hint).validate_json(text, strict=True)
    except ValidationError:
        return False
    except (PydanticUserError, NameError, TypeError):  # a hint that pydantic cannot read
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
    """Write a type hint in words: `int > 0`, `'a' or 'b'`, `float >= 0 and < 1 or null`."""
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
    least, most = 0, None
    for annotation in annotations:
        # Field(ge=0, lt=1) keeps its bounds as a list of annotated_types; Gt(0) is one itself.
        if isinstance(annotation, FieldInfo) and annotation.description:
            return annotation.description
        parts = annotation.metadata if isinstance(annotation, FieldInfo) else [annotation]
        for bound in parts:
            if isinstance(bound, MinLen):
                least = bound.min_length
            elif isinstance(bound, MaxLen):
                most = bound.max_length
            elif type(bound) in _SIGNS:
                sign, name = _SIGNS[type(bound)]
                bounds.append(f"{sign} {getattr(bound, name)}")
    return f"{_of_length(words, least, most)} {' and '.join(bounds)}".strip()


def _of_length(words: str, least: int, most: int | None) -> str:
    """A list or a text in `words`, with how long it may be."""
    if least == most:
        return f"{words} of {least}"
    if least > 1:
        return f"{words} of {least} or more" if most is None else f"{words} of {least} to {most}"
    words = f"non-empty {words}" if least else words
    return words if most is None else f"{words} of at most {most}"


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}".lstrip(".")
