"""A composed config as one level of dotted keys, for whoever shows or compares it."""

import re
from typing import Any


def flatten(node: dict[str, Any], without: tuple[str, ...] = (), path: str = "") -> dict[str, Any]:
    """The values of a nested config by dotted key, but for keys that begin with one of `without`.

    Of an object its class is shown (with its module, if it is not firstlight's), not what instantiation alone reads.
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
        elif not str(key).startswith("_"):
            flat[name] = value
    return flat


def hyperparameters(config: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, bool | int | float | str]:
    """As loggers take them: nothing that is null or empty, and text for what is no single value."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(config, without).items()
        if value is not None and value != {}
    }
