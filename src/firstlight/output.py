"""Standard output: what a command has to say, and nothing else."""

import sys

from firstlight.errors import ConfigError


def write(text: str) -> None:
    """Write and flush `text`.

    Raises:
        BrokenPipeError: nobody reads any more.
        ConfigError: it cannot be written (a full disk).
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"standard output cannot be written: {error.strerror}") from None
