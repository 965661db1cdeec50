"""Whether steps move wide models as far as narrow ones."""

from typing import Any

from firstlight.api import words
from firstlight.api.call import command
from firstlight.api.composed import composed


@command
def coord_check(
    *overrides: str, config_dir: words.Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Make a coordinate check of the model of the run that `firstlight.train` would make.

    The result is that of `firstlight coord-check` as data: `moves` and `sizes` are lists with the
    `parametrization`, `layer`, `widths`, `values` and `exponent` of each row, `runs` has every
    step, and `folder` its files; `coord_check={"out": None}` writes none.

    Raises:
        Error: a run cannot be, or failed.
    """
    from firstlight.coord_check.command import checked  # late: it imports torch

    with composed("coord-check", overrides, settings, config_dir) as config:
        return checked(config, lambda _: None)
