"""`firstlight ladder`: the loss of a model that has not been trained yet, and whether it was so."""

import signal
from typing import Any

from firstlight.errors import RunError, printable, reason_of
from firstlight.files import replace_text, replacing
from firstlight.ladder.asked import Asked
from firstlight.ladder.asked import arguments as arguments
from firstlight.ladder.asked import asked as asked
from firstlight.ladder.climb import Climbed, climbed
from firstlight.ladder.figure import ladder_figure
from firstlight.ladder.text import as_data, as_text, refusal
from firstlight.output import as_json, say, write
from firstlight.training.stopping import Stopped


def main(asked: Asked, again: str) -> None:
    """Make what is left of a ladder, and print what it has come to; `again` is the command.

    Raises:
        ConfigError: it is not valid, or its folder holds something else.
        RunError: trials have failed, its files cannot be written, or nothing can be predicted.
        Stopped: a signal has stopped it.
    """
    try:
        found = climbed(asked)
    except (Stopped, KeyboardInterrupt) as stop:
        say(f"\nstopped; runs that are done are kept; resume with: {again}")
        signum = stop.signum if isinstance(stop, Stopped) else signal.SIGINT
        raise Stopped(signum, asked.folder) from None
    write(as_text(with_files(found, asked)))
    say(f"files: {printable(str(asked.folder))}")
    if found.prediction is None:
        raise refusal(found.fit.problems)


def with_files(found: Climbed, asked: Asked) -> dict[str, Any]:
    """The findings as data, which are written to the ladder's folder with their picture.

    Raises:
        RunError: they cannot be written.
    """
    data, picture = as_data(found, asked), asked.settings.picture
    try:
        replace_text(asked.folder / "ladder.json", as_json(data, indent=1) + "\n")
        with replacing(asked.folder / f"ladder.{picture}", "wb") as file:
            ladder_figure(found).savefig(file, dpi=120, format=picture)
    except OSError as error:
        raise RunError(
            f"ladder.out ({asked.folder}) cannot be written: {reason_of(error)}"
        ) from None
    return data
