"""The keys of a config."""

from collections.abc import Iterator
from typing import Any


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config, sections included."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{path}{key}"
            yield from keys_of(child, f"{path}{key}.")


def is_within(key: str, section: str) -> bool:
    """Whether a dotted key is `section` itself or a key below it."""
    return key == section or key.startswith(f"{section}.")
