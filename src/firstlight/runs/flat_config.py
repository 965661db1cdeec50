"""A composed config as one level of dotted keys, for whoever shows or compares it."""

import re
from typing import Any


def flatten(node: dict[str, Any], without: tuple[str, ...] = (), path: str = "") -> dict[str, Any]:
    """The values of a nested config by dotted key, except keys that begin with one of `without`.

    Objects are shown by their class (with its module, if it is not firstlight's). `path` is the
    prefix of the keys.
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{path}{key}"
        if name.startswith(without):
            continue
        if isinstance(value, dict) and value:
            flat |= flatten(value, without, f"{name}.")
        elif key == "_target_":
            flat[path.rstrip(".")] = re.sub(r"^firstlight\..*\.", "", str(value))
        elif not str(key).startswith("_"):  # _partial_ and the like only control instantiation
            flat[name] = value
    return flat


def hyperparameters(
    config: dict[str, Any], without: tuple[str, ...] = ()
) -> dict[str, bool | int | float | str]:
    """The flat config as loggers take it: without null and empty values, lists as text."""
    values: dict[str, bool | int | float | str] = {}
    for key, value in flatten(config, without).items():
        if isinstance(value, bool | int | float | str):
            values[key] = value
        elif value is not None and value != {}:
            values[key] = str(value)
    return values
