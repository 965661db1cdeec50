"""How the loss of a run answers to a learning rate that rises."""

from typing import Any

from firstlight.api import words
from firstlight.api.call import command
from firstlight.api.composed import composed


@command
def lr_find(
    *overrides: str, config_dir: words.Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Make a range test of the learning rate of the run that `firstlight.train` would make.

    The result is that of `firstlight lr-find` as data: `rates`, `losses` and `smoothed` by step,
    `suggestion` (None with a reason in `why_none`) with its `rule`, `tenth_of_lowest`, and the
    `folder` of its files; `lr_find={"out": None}` writes none.

    Raises:
        Error: the run cannot be, or failed.
    """
    from firstlight.lr_find.command import tested  # late: it imports torch

    with composed("lr-find", overrides, settings, config_dir) as config:
        return tested(config)
