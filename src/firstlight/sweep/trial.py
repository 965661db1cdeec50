"""One trial: a run in its own process, watched to its end, with its result in the ledger."""

import math
import os
import re
import shutil
import signal
import time
from contextlib import closing
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from filelock import Timeout
from optuna.trial import TrialState

from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.manifest import read_manifest
from firstlight.config import build
from firstlight.errors import ConfigError, RunError, reason_of, shorten
from firstlight.files import inside, locked
from firstlight.overrides import setting, typed
from firstlight.process_group import ended_by, name_of
from firstlight.processes import SweepTrial, given_environment
from firstlight.runs.environment import BEGUN_IN
from firstlight.runs.run_folder import RunFolder
from firstlight.runs.writer import LOCK, is_unfinished_start
from firstlight.sweep.ledger import Ledger, Row
from firstlight.sweep.preloaded import SERVER
from firstlight.sweep.record import SweepRecord, settings_of_record, trial_overrides
from firstlight.training.final_score import NOT_FINITE, WITHOUT_SCORE
from firstlight.training.process import run_command, start_process, start_server
from firstlight.training.stopping import StopSignals

LONGEST_ERROR = 1000
"""Most characters of a trial's error that are kept: enough for nearly every message."""
GRACE = 60.0
"""Seconds in which a trial that was asked to stop must finish its step and save."""


def make_trial(sweep: Path, number: int) -> int:
    """Train the row `number`, which this process has taken, or resume its run.

    Returns the signal that has asked the sweep to stop; 0 if none has.

    Raises:
        RunError: the ledger, or the folder of the trial, cannot be used; the row is free for others
            then.
    """
    with closing(Ledger.open(sweep)) as ledger, ledger.alive(number):
        row = ledger.row(number)
        try:
            return _made(ledger, row)
        finally:
            # If it was interrupted, others may take it.
            ledger.give_back(row)


def _made(ledger: Ledger, row: Row) -> int:
    run, log = ledger.run_of(row), ledger.log_of(row)
    assert run is not None
    make_way(run, is_resumable=build(ledger.record.config["order"], "order").resumable)
    try:
        log.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{log.parent}: cannot be made: {error.strerror}") from None
    start = log.stat().st_size if log.exists() else 0
    timeout = settings_of_record(ledger.record).timeout
    began = time.perf_counter()
    unscored = None
    # Signals are passed on to the process of the trial, which saves before it ends.
    with StopSignals() as signals:
        exit_code, is_late = _run(_started(ledger, row, log), signals, timeout)
        last = _last_line(log, start)
        # It has trained to its end and chosen: a number that nothing is chosen by is no failure.
        if exit_code == 1 and last.startswith(NOT_FINITE) and not signals.received:
            unscored = last.partition(";")[0]
            exit_code, is_late = _run(_started(ledger, row, log, WITHOUT_SCORE), signals, timeout)
    # Stopped, not ended: the row stays as it is, and the trial is resumed later.
    seconds = row.seconds + time.perf_counter() - began
    if signals.received and exit_code != 0:
        ledger.note(row.number, seconds=seconds)
        return signals.received
    # This worker was silent for DEAD_AFTER seconds (a laptop that slept), and presumed dead.
    if ledger.row(row.number).worker != row.worker:
        raise RunError(f"{run}: another worker took over this trial; discarding this result")
    error = None
    if exit_code != 0 and is_late:
        error = f"stopped after {timeout:g} s (sweep.timeout); retry resumes it"
    elif exit_code != 0:
        error = _reason(exit_code, _last_line(log, start))
    _finish(ledger, row.number, run, seconds, error, unscored)
    return signals.received


def make_way(folder: Path, *, is_resumable: bool) -> None:
    """Wait until an orphaned process lets go of the run; remove a run that cannot be resumed.

    A folder that is not a run yet stays: the command of the trial begins it again.

    Raises:
        RunError: it does not let go; or the folder holds something that no run of a sweep leaves.
    """
    try:
        if not folder.exists():
            return
        run = RunFolder(folder)
        is_run = run.is_run
        if not is_run and not (folder.is_dir() and is_unfinished_start(folder)):
            raise RunError(
                f"{folder}: not a run of this sweep, but has a trial's name; move it away"
            )
        if not is_run and not (folder / LOCK).exists():
            return
        with locked(folder / LOCK, timeout=GRACE):
            # Looked up again, now that nobody else writes.
            if run.is_run and not run.is_finished and not is_resumable:
                shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise RunError(
            f"{folder}: another process is writing this run; wait until it ends, or stop it"
        ) from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be used: {error.strerror}") from None


def _started(ledger: Ledger, row: Row, log: Path, *more: str) -> BaseProcess:
    """A process that trains a row, with `more` words."""
    start_server(SERVER)
    environment = given_environment() | SweepTrial(ledger.folder, row.number).environment
    if ledger.record.working_folder is not None:
        environment[BEGUN_IN] = ledger.record.working_folder
    words = [*trial_arguments(ledger.record, row, ledger.folder), *more]
    return start_process(_train, words, log=log, environment=environment)


def _train(words: list[str]) -> int:
    """In the process of a trial: `firstlight train` with `words`; its exit code."""
    # A session of its own: Ctrl-C reaches only the sweep, which passes it on once.
    os.setsid()
    return run_command(["train", *words])


def trial_arguments(record: SweepRecord, row: Row, sweep: Path) -> list[str]:
    """The command line of a trial after `firstlight train`; given again, it resumes the trial."""
    overrides = trial_overrides(record, row.overrides, row.seed)
    words = [typed(word, record.config_dir) for word in overrides]
    folder = inside(sweep, row.folder).absolute()
    words += [setting("output_dir", str(folder)), "resume=auto"]
    if record.config_dir:
        words += ["--config-dir", record.config_dir]
    return words


def _run(
    process: BaseProcess, signals: StopSignals, timeout: float | None
) -> tuple[int | None, bool]:
    """The exit code of the process, and whether its time was over before it was done."""
    began, told, is_late = time.perf_counter(), 0, False
    try:
        while not wait([process.sentinel], timeout=0.2):  # signals are passed on as soon
            # Out of time: asked to save at first, killed after GRACE seconds more.
            late_by = 0.0 if timeout is None else time.perf_counter() - began - timeout
            if late_by > 0 and not is_late:
                is_late = True
                _ask(process, signal.SIGTERM)
            if late_by > GRACE:
                process.kill()
            if signals.received != told:
                told = signals.received
                _ask(process, told)
        process.join()
        return process.exitcode, is_late
    finally:  # after a second Ctrl-C it still runs
        process.kill()
        process.join()


def _ask(process: BaseProcess, signum: int) -> None:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signum)


def _finish(
    ledger: Ledger,
    number: int,
    run: Path,
    seconds: float,
    error: str | None,
    unscored: str | None = None,
) -> None:
    """Write down how a trial has ended: with an `error`, or with what its run has reached.

    `unscored` is why a run that is complete has no score of its test split.
    """
    objectives = ledger.record.objectives
    metrics: dict[str, float] = {}
    if error is None:
        try:
            metrics = {**reached_metrics(run), "seconds": seconds}
        except ConfigError as problem:
            error = str(problem)
        else:
            for name in reversed(objectives):
                if not math.isfinite(metrics.get(name, math.nan)):
                    error = f"the run has no {name} that is a number"
    if error is not None:
        ledger.finish(number, TrialState.FAIL, error=error, seconds=seconds)
    elif "pruned_at_step" in ledger.frozen(number).user_attrs:
        ledger.finish(number, TrialState.PRUNED, metrics=metrics, seconds=seconds, error=unscored)
    else:
        values = [metrics[name] for name in objectives]
        ledger.finish(
            number, TrialState.COMPLETE, values, metrics=metrics, seconds=seconds, error=unscored
        )


def reached_metrics(run: Path) -> dict[str, float]:
    """The metrics at the end of a run, of its best checkpoint and of the test split, its tokens and
    steps.

    Those of the best checkpoint are called `best/...`.

    Raises:
        ConfigError: it has no checkpoint, or none that can be read; or its logs cannot be.
    """
    saved = checkpoints_of(run)
    if not saved:
        raise ConfigError("the run has left no checkpoint")
    last, best = read_manifest(saved[-1]), read_manifest(best_of(saved))
    found = dict(last.metrics)
    for name, value in best.metrics.items():
        found[f"best/{name}"] = value
    try:
        found |= RunFolder(run).final_metrics
    except (OSError, ValueError) as error:
        raise ConfigError(f"its logs are not what firstlight writes ({reason_of(error)})") from None
    return {**found, "tokens": float(last.tokens), "steps": float(last.step)}


def _reason(exit_code: int | None, last_line: str) -> str:
    if exit_code is not None and exit_code < 0:
        return ended_by(-exit_code)
    # As firstlight, and a shell, report a signal.
    if exit_code is not None and exit_code > 128:
        return f"stopped by {name_of(exit_code - 128)}; retry resumes it"
    return last_line or f"ended with exit code {exit_code}"


def _last_line(log: Path, start: int) -> str:
    """The last line that the process wrote from byte `start` on.

    If it reported a mistake, the first line of that.
    """
    if not log.exists():
        return ""
    with log.open("rb") as file:
        # The end is enough; a progress bar writes one long line with carriage returns.
        file.seek(max(start, log.stat().st_size - 20000))
        text = file.read(20000).decode("utf-8", errors="replace")
    last = ""
    for line in re.split(r"[\r\n]+", text):
        if line.strip().startswith("firstlight: "):
            last = line.strip().removeprefix("firstlight: ")
            break
        last = line.strip() or last
    return shorten(last, LONGEST_ERROR)
