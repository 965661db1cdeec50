"""Which choices of the config's groups a run was begun with: they have names, such as nano."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

CHOSEN = "chosen"
"""The section in which loggers get these names, beside those of the config."""
_CHOICE = re.compile(r"\+{0,2}(?P<group>\w+)=(?P<name>\w[\w./-]*)")


def chosen_names(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, str]:
    """The choices among the `overrides` of a run, the last of each group: {"model": "nano"}.

    `config` is the composed config of the run. A group is a section of it, or has keys in several
    sections, as `experiment` does.
    """
    names: dict[str, str] = {}
    for word in overrides:
        choice = _CHOICE.fullmatch(str(word))
        # A key that is no section is a setting: seed=1.
        if choice and isinstance(config.get(choice["group"], {}), Mapping):
            names[choice["group"]] = choice["name"]
    return names
