"""The trials of a rung: a sweep of rates and seeds in a folder of its own, and its losses."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from firstlight.data.files import leads_to
from firstlight.errors import RunError
from firstlight.ladder.asked import Asked
from firstlight.ladder.rungs import Rung
from firstlight.output import say
from firstlight.overrides import command, named
from firstlight.statistics import rungs as statistics
from firstlight.sweep import command as sweeps
from firstlight.sweep.ledger import Ledger, is_unplanned
from firstlight.sweep.points import current
from firstlight.sweep.record import SWEEP_FILE

OBJECTIVE = "val/loss"
"""What is predicted: of the last step, whichever checkpoint was the best."""
AS_PART = "hydra.sweeper.as_part=true"
RATE = "optimizer.lr"
IF_FAILED = (
    "the same command tries them again; if runs diverge at a rate, leave it out of ladder.rates, or"
    " lower ladder.widen"
)
Losses = dict[float, list[float]]
"""By rate, the losses of the seeds in their order."""


def trained(rung: Rung, asked: Asked, n_seeds: int, *, is_guest: bool) -> statistics.Rung:
    """Train what is missing of a rung, and return what all of it has come to.

    A rung whose best rate is the first or the last is trained at a further one, as often as
    `ladder.widen` says.

    Raises:
        ConfigError: its config has changed since it was planned.
        RunError: trials have failed.
        Stopped: a signal has stopped it.
    """
    rates, n_further = list(asked.settings.rates), 0
    while True:
        losses = _made(rung, asked, rates, n_seeds, is_guest=is_guest)
        found = statistics.Rung(
            rung.budget,
            rung.size.parameters,
            rung.tokens,
            rates,
            [losses[rate] for rate in rates],
        )
        edge = statistics.tuned(found).at_edge
        if not edge or n_further == asked.settings.widen:
            return found
        rates = wider(rates, edge)
        n_further += 1


def wider(rates: list[float], edge: str) -> list[float]:
    """`rates` and the next one beyond their `edge`, by the factor between those that are there."""
    if edge == "highest":
        return [*rates, _three_digits(rates[-1] * rates[-1] / rates[-2])]
    return [_three_digits(rates[0] * rates[0] / rates[1]), *rates]


def _three_digits(rate: float) -> float:
    return float(f"{rate:.3g}")


def _made(rung: Rung, asked: Asked, rates: list[float], n_seeds: int, *, is_guest: bool) -> Losses:
    """The losses of a rung at these rates, of which those that are missing are trained."""
    folder = asked.folder / rung.name
    before = _done(folder)
    if (losses := _whole(before, rates, n_seeds)) is not None:
        return losses
    say(
        f"{rung.budget:.3g} FLOPs, {rung.size.text}: {rung.size.parameters:,} parameters,"
        f" {rung.tokens:,} tokens"
    )
    # A sweep only grows: rates that an earlier command has tried stay in it.
    all_rates = sorted({*before.rates, *rates})
    words = [*rung.words(asked, all_rates, n_seeds), *asked.of_hydra]
    planned = sweeps.plan(words, asked.config_dir)
    _retry(folder, rates)
    try:
        sweeps.run_sweep(planned, [*words, AS_PART], with_logging=not is_guest)
    except RunError as error:
        # What failed may be at a rate that an earlier command has tried, and this one has not.
        problem = f"{error}; {IF_FAILED}"
    else:
        lacking = command("sweep", "status", named("folder", str(folder)))
        problem = f"{folder}: not all of its trials are done; {lacking} shows which"
    losses = _whole(_done(folder), rates, n_seeds)
    if losses is None:
        raise RunError(problem)
    return losses


def _retry(folder: Path, rates: list[float]) -> None:
    """Plan failed trials again, if some at these rates have: a disk was full, and is not any more.

    Those that diverged will do so again, and say so.
    """
    with closing(Ledger.open(folder)) as ledger:
        failed = [row for row in current(ledger.rows()) if row.state == "failed"]
        if any(row.params[RATE] in rates for row in failed):
            ledger.retry()


@dataclass(frozen=True)
class _Done:
    """What the trials of a sweep have found so far: by rate, and by seed."""

    seeds: list[int]
    rates: dict[float, dict[int, float]]


def _done(folder: Path) -> _Done:
    if not leads_to(folder / SWEEP_FILE, Path.is_file) or is_unplanned(folder):
        return _Done([], {})
    rates: dict[float, dict[int, float]] = {}
    with closing(Ledger.open(folder, read_only=True)) as ledger:
        for row in current(ledger.rows()):
            by_seed = rates.setdefault(row.params[RATE], {})
            if row.state == "done":
                by_seed[row.seed] = row.metrics[OBJECTIVE]
        return _Done(ledger.record.seeds, rates)


def _whole(done: _Done, rates: list[float], n_seeds: int) -> Losses | None:
    """The losses of `rates` for the first `n_seeds` seeds; None if one is missing."""
    seeds, losses = done.seeds[:n_seeds], Losses()
    for rate in rates:
        by_seed = done.rates.get(rate, {})
        if len(seeds) < n_seeds or any(seed not in by_seed for seed in seeds):
            return None
        losses[rate] = [by_seed[seed] for seed in seeds]
    return losses
