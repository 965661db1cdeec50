"""Optuna's studies, made without a word."""

from typing import Any

import optuna


def make_study(**arguments: Any) -> optuna.Study:
    """`optuna.create_study(**arguments)`, which would announce the study on the terminal.

    How much Optuna says otherwise is as before: it may be used by the program of a notebook, too.
    """
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(**arguments)
    finally:
        optuna.logging.set_verbosity(before)
