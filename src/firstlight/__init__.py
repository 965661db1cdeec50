"""firstlight: pre-train small GPT language models from scratch as reproducible experiments."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names below, for type checkers and editors
    from firstlight.api.call import Interrupted as Interrupted
    from firstlight.api.language_model import Generated as Generated
    from firstlight.api.language_model import LanguageModel as LanguageModel
    from firstlight.api.language_model import load as load
    from firstlight.api.run import Run as Run
    from firstlight.api.run import runs as runs
    from firstlight.api.run import train as train
    from firstlight.api.words import choice as choice
    from firstlight.api.words import interval as interval
    from firstlight.errors import ConfigError as ConfigError
    from firstlight.errors import Error as Error
    from firstlight.errors import RunError as RunError

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "errors",
    "Error": "errors",
    "Generated": "api.language_model",
    "Interrupted": "api.call",
    "LanguageModel": "api.language_model",
    "Run": "api.run",
    "RunError": "errors",
    "choice": "api.words",
    "interval": "api.words",
    "load": "api.language_model",
    "runs": "api.run",
    "train": "api.run",
}
"""The Python API: each name, and the module that has it. It is imported when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'firstlight' has no attribute {name!r}")
    found = getattr(import_module(f"firstlight.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """This package: `firstlight.sweep` is the function of the API, whether or not the package
    `firstlight.sweep` has been imported, which Python would put in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
