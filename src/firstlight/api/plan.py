"""What a run will take, before it begins."""

from typing import Any

from firstlight.api import words
from firstlight.api.call import command
from firstlight.api.composed import composed


@command
def plan(*overrides: str, config_dir: words.Path | None = None, **settings: Any) -> dict[str, Any]:
    """What the run that `firstlight.train` would make with the same arguments will take.

    The result is that of `firstlight plan` as data: `forecast` (parameters, tokens, work, phases,
    disk), `memory`, `time` (None without steps) and `warnings`; with `cluster="h100"` in place of
    memory and time an `outlook` for each number of devices. `plan={"steps": 0}` makes no steps.

    Raises:
        Error: the run cannot be.
    """
    from firstlight.plan.command import planned  # late: it imports torch

    with composed("plan", overrides, settings, config_dir) as config:
        found, _ = planned(config)
        return found
