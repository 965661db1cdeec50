"""One trial: a run in a process of its own, watched until it ends, and what it came to written into the ledger."""

import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from filelock import Timeout
from optuna.trial import TrialState

from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.manifest import WEIGHTS, read_manifest
from firstlight.config import build
from firstlight.errors import ConfigError, RunError, shorten
from firstlight.files import inside, locked
from firstlight.overrides import setting, typed
from firstlight.process_group import ended_by, name_of
from firstlight.processes import SWEEP, TRIAL, given_environment
from firstlight.runs.environment import BEGUN_IN
from firstlight.runs.run_folder import CONFIG
from firstlight.runs.writer import LOCK, is_unfinished_start
from firstlight.sweep.ledger import Ledger, Row
from firstlight.sweep.record import Record, settings_of_record, trial_overrides
from firstlight.training.process import start_process, start_server
from firstlight.training.stopping import StopSignals

Train = Callable[[list[str]], int]
"""`firstlight train` with these words, in the process it is called in; its exit code."""
PRELOADED = ("firstlight.cli", "firstlight.compose.compose", "firstlight.commands.train", "firstlight.sweep.pruning")
LONGEST_ERROR = 1000
"""Characters of what is kept of a trial's error: all that firstlight says, and nearly all that libraries do."""
GRACE = 60.0
"""Seconds that a trial which was asked to stop has for its step and its checkpoint."""


@dataclass(frozen=True)
class Ended:
    """How a trial has ended: the ledger's word for it; `signal` if the sweep was asked to stop, too."""

    state: str
    signal: int = 0


def make_trial(sweep: Path, number: int, train: Train) -> Ended:
    """Train the row `number`, which this process has taken; or resume its run where it was ended.

    `train` is called in a process of its own.

    Raises:
        RunError: the ledger, or the folder of the trial, cannot be used; the row is free for others then.
    """
    ledger = Ledger.open(sweep)
    try:
        with ledger.alive(number):
            return _made(ledger, ledger.row(number), train)
    finally:
        ledger.close()


def _made(ledger: Ledger, row: Row, train: Train) -> Ended:
    folder, log = ledger.run_of(row), ledger.log_of(row)
    assert folder is not None
    timeout = settings_of_record(ledger.record).timeout
    is_over = False
    try:
        make_way(folder, is_resumable=build(ledger.record.config["order"], "order").resumable)
        _make_folder_of(log)
        start, began = log.stat().st_size if log.exists() else 0, time.perf_counter()
        with StopSignals() as signals:
            exit_code, is_late = _run(_started(ledger, row, train, log), signals, timeout)
        seconds = row.seconds + time.perf_counter() - began
        if signals.received and exit_code != 0:
            ledger.note(row.number, seconds=seconds)
            return Ended("planned", signals.received)
        if ledger.row(row.number).worker != row.worker:  # it was silent for long, and was presumed dead
            is_over = True
            raise RunError(f"{folder}: another worker has taken this trial over; its result is not written down twice")
        state = _finish(ledger, row, exit_code, seconds, _last_line(log, start), timeout if is_late else None)
        is_over = True
        return Ended(state, signals.received)
    finally:
        if not is_over:
            ledger.free(row.number)


def _make_folder_of(log: Path) -> None:
    try:
        log.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{log.parent}: cannot be made: {error.strerror}") from None


def _run(process: BaseProcess, signals: StopSignals, timeout: float | None) -> tuple[int | None, bool]:
    """The exit code of the process, and whether its time was over before it was done."""
    began, told, is_late = time.perf_counter(), 0, False
    try:
        while not wait([process.sentinel], timeout=0.2):
            if timeout is not None and not is_late and time.perf_counter() - began > timeout:
                is_late = True
                _ask(process, signal.SIGTERM)
            if is_late and time.perf_counter() - began > (timeout or 0) + GRACE:
                process.kill()
            if signals.received != told:
                told = signals.received
                _ask(process, told)
        process.join()
        return process.exitcode, is_late
    finally:  # a second Ctrl-C
        process.kill()
        process.join()


def _started(ledger: Ledger, row: Row, train: Train, log: Path) -> BaseProcess:
    start_server(PRELOADED)
    environment = {**given_environment(), SWEEP: str(ledger.folder.absolute()), TRIAL: str(row.number)}
    if ledger.record.working_folder is not None:
        environment[BEGUN_IN] = ledger.record.working_folder
    return start_process(train, arguments(ledger.record, row, ledger.folder), log=log, environment=environment)


def arguments(record: Record, row: Row, sweep: Path) -> list[str]:
    """The command line of a trial, after `firstlight train`, as it is typed; given again, it resumes the trial."""
    words = [typed(word, record.config_dir) for word in trial_overrides(record, row.overrides, row.seed)]
    place = [setting("output_dir", str(inside(sweep, row.folder).absolute())), "resume=auto"]
    return [*words, *place, *(["--config-dir", record.config_dir] if record.config_dir else [])]


def _ask(process: BaseProcess, signum: int) -> None:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signum)


def make_way(folder: Path, *, is_resumable: bool) -> None:
    """Wait until a process whose sweep has died has let go of the run, and remove one that cannot be resumed.

    A folder that is not a run yet stays: the command of the trial begins it again.

    Raises:
        RunError: it does not let go; or the folder holds something that no run of a sweep leaves.
    """
    try:
        if folder.exists() and not _is_ours(folder):
            raise RunError(f"{folder}: not a run of this sweep, and in the place of one; move it away")
        if (folder / LOCK).exists() or (folder / CONFIG).is_file():
            with locked(folder / LOCK, timeout=GRACE):
                is_run, is_over = (folder / CONFIG).is_file(), (folder / WEIGHTS).is_file()
                if is_run and not is_over and not is_resumable:  # of an order without a position
                    shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise RunError(f"{folder}: another process is writing this run; wait for its end, or stop it") from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be used: {error.strerror}") from None


def _is_ours(folder: Path) -> bool:
    """Is it a run, or what a run leaves that was killed while its folder was being made?"""
    if not folder.is_dir():
        return False
    return (folder / CONFIG).is_file() or is_unfinished_start(folder)


def _finish(
    ledger: Ledger, row: Row, exit_code: int | None, seconds: float, last_line: str, timeout: float | None
) -> str:
    """Write down how the trial has ended; the ledger's word for it."""
    run = ledger.run_of(row)
    assert run is not None
    names = ledger.record.settings["objectives"]
    if timeout is not None and exit_code != 0:
        error = f"stopped after {timeout:g} s (sweep.timeout); retry resumes it"
    elif exit_code != 0:
        error = _reason(exit_code, last_line)
    else:
        try:
            metrics = {**metrics_of(run), "seconds": seconds}
        except ConfigError as problem:
            metrics, error = {}, str(problem)
        else:
            missing = [name for name in names if not math.isfinite(metrics.get(name, math.nan))]
            error = f"the run has no {missing[0]} that is a number" if missing else None
        if error is None:
            is_pruned = "pruned_at_step" in ledger.frozen(row.number).user_attrs
            state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE
            values = None if is_pruned else [metrics[name] for name in names]
            ledger.finish(row.number, state, values, metrics=metrics, seconds=seconds, error=None)
            return "pruned" if is_pruned else "done"
    ledger.finish(row.number, TrialState.FAIL, error=error, seconds=seconds)
    return "failed"


def metrics_of(run: Path) -> dict[str, float]:
    """What the run in a folder came to: the metrics of its end, those of its best checkpoint, and its tokens.

    Raises:
        ConfigError: it has no checkpoint, or none that can be read.
    """
    saved = checkpoints_of(run)
    if not saved:
        raise ConfigError("the run has left no checkpoint")
    last, best = read_manifest(saved[-1]), read_manifest(best_of(saved))
    return {
        **last.metrics,
        **{f"best/{name}": value for name, value in best.metrics.items()},
        "tokens": float(last.tokens),
        "steps": float(last.step),
    }


def _reason(exit_code: int | None, last_line: str) -> str:
    if exit_code is not None and exit_code < 0:
        return ended_by(-exit_code)
    if exit_code is not None and exit_code > 128:
        return f"stopped by {name_of(exit_code - 128)}; retry resumes it"
    return last_line or f"ended with exit code {exit_code}"


def _last_line(log: Path, start: int) -> str:
    """What the process said last, of what it wrote from `start` on; its own words for a mistake, if there are any."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 20000))
        text = file.read(20000).decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    told = [line.removeprefix("firstlight: ") for line in lines if line.startswith("firstlight: ")]
    return shorten((told or lines or [""])[0 if told else -1], LONGEST_ERROR)
