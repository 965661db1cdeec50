"""What loggers that show more than numbers have in common."""

from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from matplotlib.figure import Figure


@runtime_checkable
class Board(Protocol):
    """A logger that shows texts and figures as well."""

    def show_text(self, tag: str, text: str, step: int) -> None: ...

    def show_figure(self, tag: str, figure: Figure, step: int) -> None: ...


def require(package: str) -> None:
    """Refuse a logger whose package, which is an extra of ours by the same name, is not installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec(package) is None:
        raise ValueError(f'{package} is not installed; run: pip install "firstlight[{package}]"')
