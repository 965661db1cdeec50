"""Tab completion: `eval "$(firstlight --shell-completion install=bash)"`, or fish; zsh as bash.

Hydra completes keys and choices, but knows nothing of verbs: they are completed here, and taken out
of the line before Hydra reads it.
"""

import os
import re

from firstlight import output
from firstlight.errors import ConfigError
from firstlight.verbs import run

LINE = "COMP_LINE"
"""Environment variable: what has been typed so far, from the shell."""


def complete(verbs: dict[str, str], words: list[str]) -> None:
    """Answer `firstlight --shell-completion WORDS`: install=SHELL, uninstall=SHELL, query=SHELL.

    Raises:
        ConfigError: Hydra does not know the word; never for a query.
    """
    first = next(iter(verbs))
    if not any(word.startswith("query=") for word in words):
        run(first, verbs[first], ["--shell-completion", *words])
        return
    line = os.environ.get(LINE, "")
    typed = line.split()
    if len(typed) < 2 or (len(typed) == 2 and not line[-1].isspace()):
        fitting = [verb for verb in verbs if verb.startswith("".join(typed[1:]))]
        # Hydra's scripts: fish reads lines, the others words.
        output.write(("\n" if "query=fish" in words else " ").join(fitting) + "\n")
    elif typed[1] in verbs:
        os.environ[LINE] = re.sub(r"^(\s*\S+)\s+\S+", r"\1", line)
        try:
            run(typed[1], verbs[typed[1]], ["--shell-completion", *words])
        except ConfigError:
            return  # a message would appear in the line that is being typed
        finally:
            os.environ[LINE] = line
