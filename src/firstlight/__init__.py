"""firstlight: pre-train small GPT language models from scratch as reproducible experiments."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names below, for type checkers and editors
    from firstlight.api.call import Interrupted as Interrupted
    from firstlight.api.checkpoint import evaluate as evaluate
    from firstlight.api.checkpoint import export as export
    from firstlight.api.comparison import Comparison as Comparison
    from firstlight.api.comparison import compare as compare
    from firstlight.api.composed import compose as compose
    from firstlight.api.coord_check import coord_check as coord_check
    from firstlight.api.ladder import ladder as ladder
    from firstlight.api.language_model import Generated as Generated
    from firstlight.api.language_model import LanguageModel as LanguageModel
    from firstlight.api.language_model import load as load
    from firstlight.api.lightning import lightning_data as lightning_data
    from firstlight.api.lightning import lightning_module as lightning_module
    from firstlight.api.lr_find import lr_find as lr_find
    from firstlight.api.plan import plan as plan
    from firstlight.api.run import Run as Run
    from firstlight.api.run import runs as runs
    from firstlight.api.run import train as train
    from firstlight.api.sweep import Sweep as Sweep
    from firstlight.api.sweep import Trial as Trial
    from firstlight.api.sweep import sweep as sweep
    from firstlight.api.words import choice as choice
    from firstlight.api.words import interval as interval
    from firstlight.errors import ConfigError as ConfigError
    from firstlight.errors import Error as Error
    from firstlight.errors import RunError as RunError

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "api.comparison",
    "ConfigError": "errors",
    "Error": "errors",
    "Generated": "api.language_model",
    "Interrupted": "api.call",
    "LanguageModel": "api.language_model",
    "Run": "api.run",
    "RunError": "errors",
    "Sweep": "api.sweep",
    "Trial": "api.sweep",
    "choice": "api.words",
    "compare": "api.comparison",
    "compose": "api.composed",
    "coord_check": "api.coord_check",
    "evaluate": "api.checkpoint",
    "export": "api.checkpoint",
    "interval": "api.words",
    "ladder": "api.ladder",
    "lightning_data": "api.lightning",
    "lightning_module": "api.lightning",
    "load": "api.language_model",
    "lr_find": "api.lr_find",
    "plan": "api.plan",
    "runs": "api.run",
    "sweep": "api.sweep",
    "train": "api.run",
}
"""The Python API: each name, and the module that has it. It is imported when it is first used."""
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'firstlight' has no attribute {name!r}")
    # Not at import: `import firstlight` would otherwise import torch, Lightning and Hydra, which
    # takes seconds, for a name that may never be used.
    found = getattr(import_module(f"firstlight.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    # What tab completion shows: not what this file imports, nor modules that were imported.
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


class _Package(ModuleType):
    """This package, in which `firstlight.sweep` is always the function of the API.

    Python would put the package `firstlight.sweep` in its place as soon as that is imported.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets a submodule as an attribute of its package when it has been
        # imported.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


# The one way to define `__setattr__` for a module (PEP 562 has only __getattr__ and __dir__).
sys.modules[__name__].__class__ = _Package
