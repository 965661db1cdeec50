"""A ladder from its first rung to the verdict: train, fit, predict, write down, train, compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log

from firstlight.errors import ConfigError, shorten
from firstlight.files import check_links
from firstlight.ladder import record
from firstlight.ladder.asked import Asked
from firstlight.ladder.record import Prediction
from firstlight.ladder.rungs import Rung, note_on_passes, rungs_of
from firstlight.ladder.trials import trained
from firstlight.lock import HeldError, only_process
from firstlight.output import note, say
from firstlight.runs.new_folder import make_folder
from firstlight.runs.writer import LINKS_OF_WANDB
from firstlight.statistics import rungs as statistics
from firstlight.statistics.scaling import Ladder, fit_ladder


@dataclass(frozen=True)
class Climbed:
    """What a ladder has come to."""

    rungs: list[Rung]
    fit: Ladder
    prediction: Prediction | None
    """None if nothing could be predicted: `fit.problems` says why."""
    next: statistics.Tuned | None
    """The rung that was predicted, trained."""

    @property
    def is_hit(self) -> bool | None:
        """Whether its loss is in the interval; None if it was not trained at a tuned rate."""
        if self.prediction is None or self.next is None or self.next.at_edge:
            return None
        return self.prediction.loss.low <= self.next.mean <= self.prediction.loss.high


def climbed(asked: Asked, *, is_guest: bool = False) -> Climbed:
    """Make what is left of a ladder.

    `is_guest` is for a process that is somebody else's: its logging stays as it is.

    Raises:
        ConfigError: it is not valid, or its folder holds something else.
        RunError: trials have failed, or its files cannot be written.
        Stopped: a signal has stopped it; the same again resumes it.
    """
    # Everything is checked before the folder is made.
    rungs, nexts = rungs_of(asked)
    if warning := note_on_passes([*rungs, *nexts]):
        note(warning)
    make_folder(asked.folder, "ladder.out")
    with _alone(asked):
        record.check_same(asked)
        measured = [trained(rung, asked, asked.n_seeds, is_guest=is_guest) for rung in rungs]
        fit = fit_ladder(measured, asked.settings.confidence)
        prediction = _prediction(asked, fit, nexts)
        if prediction is None:
            return Climbed(rungs, fit, None, None)
        rung = _rung_of(prediction, nexts)
        say(
            f"predicted on {prediction.made}, before it is trained: {rung.size.text} at"
            f" {rung.budget:.3g} FLOPs ends at {prediction.loss.mean:.4f}"
            f" ({prediction.loss.low:.4f} to {prediction.loss.high:.4f})"
        )
        found = trained(rung, asked, prediction.n_seeds, is_guest=is_guest)
        return Climbed(rungs, fit, prediction, statistics.tuned(found))


def _prediction(asked: Asked, fit: Ladder, nexts: list[Rung]) -> Prediction | None:
    """The prediction of the next rung: that which was written down, or one that is, now.

    Raises:
        ConfigError: the one that was written down is not what firstlight writes.
        RunError: it cannot be written.
    """
    folder, budget = asked.folder, asked.settings.next_budget
    written = record.read_prediction(folder, budget)
    if written is not None:
        if written.fingerprint != record.fingerprint(fit):
            note(
                f"{record.prediction_file(folder, budget).name} was made from other losses than"
                " those of today; it stays as it is"
            )
        return written
    if fit.problems:
        return None
    best = fit.best_parameters(budget).mean
    rung = min(nexts, key=lambda one: abs(log(one.size.parameters / best)))
    made = record.predicted(rung, fit, asked.n_seeds)
    record.write_prediction(folder, made)
    return made


def _rung_of(prediction: Prediction, nexts: list[Rung]) -> Rung:
    """The rung that a prediction is of.

    Raises:
        ConfigError: the command does not have its size any more.
    """
    for rung in nexts:
        if rung.size.text == prediction.size and rung.tokens == prediction.tokens:
            return rung
    raise ConfigError(
        f"ladder.sizes: the prediction for {prediction.budget:.3g} FLOPs is of"
        f" {shorten(prediction.size)}, {prediction.tokens:,.0f} tokens; keep it among the sizes, or"
        " give another ladder.next_budget"
    )


@contextmanager
def _alone(asked: Asked) -> Iterator[None]:
    """Hold the ladder's folder: its prediction is written once, and before what it predicts.

    Raises:
        ConfigError: another process is making this ladder, or nothing can be written there.
    """
    shown = shorten(str(asked.folder))
    check_links(asked.folder, LINKS_OF_WANDB)
    try:
        with only_process(asked.folder / record.LOCK):
            yield
    except HeldError as error:
        raise ConfigError(
            f"ladder.out ({shown}): {error} is making this ladder; several trials at once are"
            " hydra/launcher=joblib"
        ) from None
    except OSError as error:
        raise ConfigError(f"ladder.out ({shown}): cannot be written ({error.strerror})") from None
