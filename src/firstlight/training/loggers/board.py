"""What loggers that show more than numbers have in common."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Protocol, runtime_checkable

from matplotlib.figure import Figure


@runtime_checkable
class Board(Protocol):
    """A logger that shows texts and figures as well."""

    # A protocol: a logger of somebody else's is a board by having these two, and need not know us.
    def show_text(self, tag: str, text: str, step: int) -> None: ...

    def show_figure(self, tag: str, figure: Figure, step: int) -> None: ...


def require(package: str) -> ModuleType:
    """A package that is an extra of ours by the same name.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec(package) is None:
        raise ValueError(f'{package} is not installed; run: pip install "firstlight[{package}]"')
    return import_module(package)
