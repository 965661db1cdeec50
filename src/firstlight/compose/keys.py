"""The keys of a config."""

from collections.abc import Iterator
from typing import Any


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config, sections included."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{path}{key}"
            yield from keys_of(child, f"{path}{key}.")


def value_at(node: Any, key: str) -> Any:
    """The value of a dotted key of a config; None if the config does not have the key."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def is_within(key: str, section: str) -> bool:
    """Whether a dotted key is `section` itself or a key below it."""
    return key == section or key.startswith(f"{section}.")


def settings_of(
    node: dict[Any, Any], comments: dict[str, str], path: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a config that are set with a value, and their values.

    `comments` of the YAML files, by dotted key, tell sections from values: a section with a
    comment, of whose keys none has one, is a value, such as sweep.params={}.
    """
    for key, value in node.items():
        name = f"{path}{key}"
        if str(key).startswith("_"):  # _target_, _partial_
            continue
        if isinstance(value, dict):
            is_section = any(known.startswith(f"{name}.") for known in comments)
            if is_section or not comments.get(name):
                yield from settings_of(value, comments, f"{name}.")
                continue
        yield name, value
