"""The ledger: a row is made by one worker, never lost, and never made again once it is done."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import optuna
import pytest
from at_each_operation import DONE, ends_of
from no_settings import NO_SETTINGS
from optuna.trial import TrialState

from firstlight.errors import ConfigError, RunError, message_lines
from firstlight.sweep import ledger as module
from firstlight.sweep import storage
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.plan import SweepPlan
from firstlight.sweep.planning import _held_folder, add_missing
from firstlight.sweep.record import SWEEP_FILE, SweepRecord, read_sweep
from firstlight.sweep.storage import DATABASE, backup_of, close, open_file

ROWS = [
    {"params": {}, "attributes": {"point": n, "seed": 1, "overrides": [f"a={n}"]}} for n in range(6)
]


RECORD_OF_SIX = SweepRecord(
    arguments=[],
    config_dir=None,
    config={},
    settings=vars(NO_SETTINGS),
    n_trials=6,
    seeds=[1],
    version="0",
)


@pytest.fixture
def ledger(tmp_path):
    RECORD_OF_SIX.write(tmp_path)
    ledger = Ledger.create(tmp_path, RECORD_OF_SIX, directions=["min"])
    ledger.add(ROWS)
    yield ledger
    ledger.close()


def states(ledger):
    return [row.state for row in ledger.rows()]


def finish(ledger, number, loss=1.0):
    ledger.finish(number, TrialState.COMPLETE, [loss], metrics={"val/loss": loss})


def test_rows_are_taken_in_their_order_and_once(ledger):
    assert [ledger.take() for _ in range(7)] == [0, 1, 2, 3, 4, 5, None]


def test_a_sweep_that_is_extended_while_its_ledger_is_opened_is_read_again(ledger, monkeypatch):
    def extended_after(folder):
        record = read_sweep(folder)
        replace(record, n_trials=7).write(folder)
        return record

    with monkeypatch.context() as patched:
        patched.setattr(module, "read_sweep", extended_after)
        other = Ledger.open(ledger.folder)
    assert other.record.n_trials == 6
    other.read_again()
    assert other.record.n_trials == 7
    other.close()


def test_workers_at_the_same_time_never_take_the_same_row(ledger):
    taken, others = [], [Ledger.open(ledger.folder) for _ in range(4)]

    def work(other):
        while (number := other.take()) is not None:
            taken.append(number)
            finish(other, number)
        other.close()

    threads = [threading.Thread(target=work, args=(other,)) for other in others]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(taken) == list(range(6))
    assert states(ledger) == ["done"] * 6


def test_the_row_of_a_process_that_died_is_taken_again_and_that_of_a_living_one_is_not(ledger):
    assert (ledger.take(), ledger.take()) == (0, 1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ledger.note(0, worker=f"{ledger.worker.split(':')[0]}:{dead.pid}:123")
    assert ledger.row(0).is_alive is False and ledger.row(1).is_alive is True
    assert ledger.take() == 0
    assert ledger.take() == 2


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(ledger):
    ledger.take()
    ledger.note(
        0, worker=f"{ledger.worker.split(':')[0]}:{os.getpid()}:1"
    )  # started at another time
    assert ledger.take() == 0


def test_a_worker_on_another_machine_is_dead_when_it_has_been_silent_for_long(ledger):
    ledger.take()
    ledger.note(0, worker="elsewhere:1:1", alive=time.time() - module.DEAD_AFTER / 2)
    assert ledger.take() == 1
    ledger.note(0, alive=time.time() - 2 * module.DEAD_AFTER)
    assert ledger.take() == 0


def test_a_worker_says_that_it_lives(ledger, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    ledger.take()
    ledger.note(0, alive=0.0)
    with ledger.alive(0):
        time.sleep(0.3)
    assert ledger.study.trials[0].user_attrs["alive"] > 0


def test_planning_that_was_interrupted_is_completed_without_a_row_twice(ledger):
    ledger.take()
    more = [*ROWS, {"params": {}, "attributes": {"point": 6, "seed": 1, "overrides": ["a=6"]}}]
    ledger.add(more)
    ledger.add(more)
    assert [row.overrides for row in ledger.rows()] == [[f"a={n}"] for n in range(7)]
    assert states(ledger) == ["running", *["planned"] * 6]


def test_a_failed_row_is_made_again_in_a_new_one_with_its_folder(ledger):
    ledger.take()
    ledger.note(0, folder="0_a-0")
    ledger.finish(0, TrialState.FAIL, error="no luck")
    ledger.take()
    ledger.finish(1, TrialState.FAIL, refused=True, error="cannot be trained")
    assert ledger.retry() == [0]  # what was refused would be refused again
    assert ledger.retry() == []
    assert ledger.rows()[0].replaced_by == 6
    assert (ledger.row(6).folder, ledger.row(6).state, ledger.row(6).overrides) == (
        "0_a-0",
        "planned",
        ["a=0"],
    )


@pytest.mark.parametrize(
    "spoil",
    [lambda f: f.write_bytes(b"x" * 3000), lambda f: f.unlink(), lambda f: f.write_bytes(b"")],
)
def test_a_ledger_that_is_damaged_or_gone_is_its_backup_and_that_is_said(ledger, capsys, spoil):
    finish(ledger, ledger.take())
    ledger.close()
    spoil(ledger.folder / DATABASE)
    again = Ledger.open(ledger.folder)
    assert states(again) == ["done", *["planned"] * 5]
    assert "using its backup" in capsys.readouterr().err
    again.close()


def test_a_database_in_place_of_the_file_is_read_through_the_environment_each_time(
    tmp_path, monkeypatch
):
    """As a password is, which stands nowhere in the folder."""
    storage = f"sqlite:///{tmp_path}/${{oc.env:LEDGER}}.db"
    record = RECORD_OF_SIX
    replace(record, storage=storage).write(tmp_path)
    monkeypatch.setenv("LEDGER", "se{cr}et")
    ledger = Ledger.create(tmp_path, replace(record, storage=storage), directions=["min"])
    ledger.add(ROWS)
    ledger.close()
    assert (tmp_path / "se{cr}et.db").is_file()
    assert "se{cr}et" not in (tmp_path / SWEEP_FILE).read_text()
    again = Ledger.open(tmp_path, storage)
    assert states(again) == ["planned"] * 6
    again.close()
    monkeypatch.delenv("LEDGER")
    with pytest.raises(ConfigError, match=r"Environment variable 'LEDGER' not found"):
        Ledger.open(tmp_path, storage)


@pytest.mark.parametrize("name", ["a b#c", "a%41b", "a?b=c", "ä{x}"])
def test_a_folder_may_have_any_name(ledger, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    ledger.record.write(folder)
    other = Ledger.create(folder, ledger.record, directions=["min"])
    other.add(ROWS)
    other.close()
    again = Ledger.open(folder)
    assert states(again) == ["planned"] * 6
    again.close()
    assert {file.name for file in folder.iterdir()} == {
        DATABASE,
        f"{DATABASE}.backup",
        SWEEP_FILE,
        ".sweep.lock",
    }


def test_what_a_killed_process_left_half_written_is_put_right_and_not_taken_for_damage(
    ledger, capsys
):
    """A hot journal: SQLite rolls it back when the file is opened next, if it may write."""
    ledger.finish(0, TrialState.COMPLETE, [1.0], metrics={"val/loss": 1.0})
    write_half = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1],"
        " isolation_level=None);db.execute('PRAGMA cache_size = 1'); db.execute('PRAGMA cache_spill"
        " = 1'); db.execute('BEGIN IMMEDIATE');db.execute('CREATE TABLE junk"
        " (a)');db.executemany('INSERT INTO junk VALUES (?)', [('x' * 5000,)] * 200); os._exit(9)"
    )
    subprocess.run(
        [sys.executable, "-c", write_half, str(ledger.folder / DATABASE)], check=False, timeout=60
    )
    assert (ledger.folder / f"{DATABASE}-journal").stat().st_size > 0
    again = Ledger.open(ledger.folder)
    assert states(again) == ["done", *["planned"] * 5]
    again.close()
    assert capsys.readouterr().err == ""


def plan(folder):
    """As the command of a sweep plans it, again and again."""
    planned = SweepPlan(RECORD_OF_SIX, replace(NO_SETTINGS, objectives=["val/loss"]), ROWS, [], [])
    with ExitStack() as held:
        assert _held_folder(folder, held, is_fixed=True) == folder
        if not (folder / SWEEP_FILE).is_file():
            RECORD_OF_SIX.write(folder)
        add_missing(folder, planned)


def assert_is_planned(folder):
    again = Ledger.open(folder)
    assert [row.overrides for row in again.rows()] == [[f"a={n}"] for n in range(6)]
    assert states(again) == ["planned"] * 6
    again.close()
    assert {file.name for file in folder.iterdir()} == {
        DATABASE, f"{DATABASE}.backup", SWEEP_FILE, ".sweep.lock", ".planning.lock"
    }  # fmt: skip


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_what_a_kill_or_a_full_disk_leaves_of_a_sweep_is_planned_by_the_same_command(
    tmp_path, how, stride
):
    folder, ends = tmp_path / "sweep", 0
    for end in ends_of(lambda: plan(folder), str(folder), how, stride):
        ends += stride
        is_planned = (folder / DATABASE).exists()
        if (folder / SWEEP_FILE).is_file() and not is_planned:
            with pytest.raises(
                ConfigError, match="stopped before its first trial was planned"
            ) as caught:
                Ledger.open(folder)
            assert len(message_lines(caught.value)) == 1
        if is_planned:  # what there is of a ledger is whole
            assert_rows = Ledger.open(folder)
            assert states(assert_rows) == ["planned"] * 6
            assert_rows.close()
        plan(folder)
        assert_is_planned(folder)
        if end != DONE:
            shutil.rmtree(folder)
    assert ends > 20


def unfinished(folder, content):
    RECORD_OF_SIX.write(folder)
    if content == "tables without a study":
        close(open_file(folder / DATABASE))
    elif content == "a study without rows":
        storage = open_file(folder / DATABASE)
        optuna.create_study(storage=storage, study_name="sweep")
        close(storage)
    else:
        (folder / DATABASE).write_bytes(content)
        (folder / f"{DATABASE}-journal").write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"SQLite format 3\0half", "tables without a study", "a study without rows"],
    ids=str,
)
def test_what_earlier_versions_left_of_a_ledger_that_was_being_made_is_made_again(
    tmp_path, content
):
    unfinished(tmp_path, content)
    plan(tmp_path)
    assert_is_planned(tmp_path)


def test_of_two_processes_that_plan_a_sweep_one_is_told_of_the_other(tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    with ExitStack() as held:
        _held_folder(folder, held, is_fixed=True)
        with (
            ExitStack() as other,
            pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* is planning this"),
        ):
            _held_folder(folder, other, is_fixed=True)
        with ExitStack() as other:
            assert _held_folder(folder, other, is_fixed=False) == tmp_path / "sweep_2"
    assert not (tmp_path / "sweep_3").exists()


def test_without_a_whole_backup_a_damaged_ledger_is_refused(ledger):
    ledger.close()
    for file in (ledger.folder / DATABASE, backup_of(ledger.folder / DATABASE)):
        file.write_bytes(b"SQLite format 3\0" + b"x" * 3000)
    with pytest.raises(ConfigError, match="and so is its backup") as caught:
        Ledger.open(ledger.folder)
    assert len(message_lines(caught.value)) == 1


def test_a_ledger_that_somebody_else_locks_is_one_line(ledger, monkeypatch):
    monkeypatch.setattr(storage, "DATABASE_PATIENCE", 0.1)
    ledger.close()
    other = sqlite3.connect(ledger.folder / DATABASE, timeout=0)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="database is locked") as caught:
        Ledger.open(ledger.folder).rows()
    assert "\n" not in str(caught.value)
    other.rollback()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not a sweep of firstlight"),
        ("x: [", "not a sweep of firstlight"),
        ("a: 1", "another program"),
        ("[1]", "another program"),
        ("version: 0.0.1", "written by firstlight 0.0.1"),
    ],
)
def test_the_folder_of_another_program_is_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / SWEEP_FILE).write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_sweep(tmp_path)


def test_a_ledger_is_made_without_a_word_of_optunas_which_says_as_much_as_before(tmp_path, caplog):
    before, log = optuna.logging.get_verbosity(), logging.getLogger("optuna")
    optuna.logging.set_verbosity(optuna.logging.INFO)
    log.addHandler(caplog.handler)
    try:
        RECORD_OF_SIX.write(tmp_path)
        Ledger.create(tmp_path, RECORD_OF_SIX, directions=["min"]).close()
        Ledger.open(tmp_path).close()
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        assert caplog.records == []
        optuna.create_study()
        assert len(caplog.records) == 1
    finally:
        log.removeHandler(caplog.handler)
        optuna.logging.set_verbosity(before)
