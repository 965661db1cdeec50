"""What a terminal gets from a program."""

import os
import pty
import subprocess
import sys


def in_a_terminal(*arguments, code=0, **variables):
    """What Python, called with `arguments`, writes into a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment = kept | {"TERM": "xterm-256color", "COLUMNS": "80", **variables}
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == code, shown
    return shown.decode().replace("\r\n", "\n")
