"""The loss of a model that has not been trained yet, from smaller ones at equal compute."""

from typing import Any

from firstlight.api import words
from firstlight.api.call import Interrupted, command


@command
def ladder(
    *overrides: str, config_dir: words.Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Train sizes at equal compute, predict the loss of the next one, and train it.

    The result is that of `firstlight ladder` as data: `rungs`, `parabolas`, `exponent`, `law`,
    `prediction` (None with the reasons in `refused`), `next` (what was then trained), `hit` and the
    `folder`. The same call again resumes what was stopped.

    Raises:
        Error: it is not valid (nothing has been written then), or runs have failed.
        Interrupted: Ctrl-C has stopped it.
    """
    from firstlight import verbs
    from firstlight.conf_files import using_config_dir
    from firstlight.training.stopping import Stopped

    args = words.arguments("ladder", overrides, settings, config_dir)
    with using_config_dir(args.config_dir):
        asked = verbs.asked_of_ladder(args.overrides, args.config_dir, with_logging=False)
        of_ladder = verbs.command("ladder")
        try:
            return of_ladder.with_files(of_ladder.climbed(asked, is_guest=True), asked)
        except Stopped as stop:
            raise Interrupted(stop.signum) from None
