"""What loggers that show more than numbers have in common."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Protocol, runtime_checkable

from matplotlib.figure import Figure

from firstlight.packages import with_extra

GIVEN_BY_FIT: Mapping[str, str] = {
    "save_dir": "a logger writes to the run folder, output_dir",
    "purge_step": "it is the step from which a run is resumed",
}
"""`not_in_config` of our loggers: what their sections are completed with."""


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
        raise ValueError(f"{package} is not installed; run: {with_extra(package)}")
    return import_module(package)
