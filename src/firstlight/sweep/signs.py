"""The workers of other machines: whether they still live, as far as their signs of life tell."""

import time
from collections.abc import Callable

from firstlight.output import note
from firstlight.sweep import ledger as ledgers
from firstlight.sweep.ledger import Ledger

PAUSE = 1.0
"""Seconds between two looks at the ledger."""


def await_signs(ledger: Ledger, is_stopped: Callable[[], bool]) -> bool:
    """Wait until every worker elsewhere has given a sign of life, or has ended its trial.

    Returns True as soon as a trial is to be made: its worker has given none for so long that it is
    presumed dead, or has freed it. The last worker of a sweep would otherwise leave a trial behind
    whose worker was lost a moment before. With `is_stopped()` it waits no longer.
    """
    seen = {row.number: row.alive for row in ledger.rows() if row.is_elsewhere}
    began, is_told = time.monotonic(), False
    # Longer than that only if clocks differ: then one that is silent cannot be told from others.
    while seen and time.monotonic() - began < ledgers.DEAD_AFTER + 2 * ledgers.BEAT:
        if is_stopped():
            return False
        for row in ledger.rows():
            if row.state == "planned":
                return True
            if row.number not in seen:
                continue
            if row.state != "running" or row.alive != seen[row.number]:
                del seen[row.number]
            elif not row.is_alive:
                return True  # `Ledger.take` says so, and plans it again
        if not seen:
            break
        if not is_told and time.monotonic() - began > 2 * ledgers.BEAT:
            is_told = True
            numbers = ", ".join(map(str, sorted(seen)))
            note(f"waiting for a sign of life of the worker of trial {numbers}")
        time.sleep(PAUSE)
    return False
