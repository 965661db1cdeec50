"""A sweep from somebody else: its ledger and its sweep.yaml are data, and decide nothing outside of
its folder.
"""

import json
import shlex
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from doors import TRAIN
from optuna.trial import TrialState

from firstlight.checkpoints.manifest import WEIGHTS
from firstlight.cli import main
from firstlight.compare.runs import find_runs
from firstlight.errors import ConfigError, RunError
from firstlight.runs.run_folder import CONFIG, ENVIRONMENT
from firstlight.runs.writer import new_run_folder
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.planning import complete, planned
from firstlight.sweep.record import SWEEP_FILE, read_sweep, trial_overrides
from firstlight.sweep.storage import DATABASE, backup_of
from firstlight.sweep.trial import make_way

SECRET = "open-sesame-4b1d"
SWEEP = Path("sweep")
COMMAND = [*TRAIN, "optimizer.lr=1e-3,2e-3", "output_dir=sweep"]


@pytest.fixture(scope="module")
def two_trials(tmp_path_factory):
    """The folder of a sweep of two trials; to plan one composes and checks both configs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("planned"))
        return planned(COMMAND, None).absolute()


@pytest.fixture
def sweep(two_trials, monkeypatch):
    """The ledger of a sweep of two trials, the first of which is done, with a secret in the
    environment.
    """
    monkeypatch.setenv("FIRSTLIGHT_TEST_SECRET", SECRET)
    shutil.copytree(two_trials, SWEEP)
    ledger = Ledger.open(SWEEP)
    ledger.note(0, folder="0_lr-1e-3", overrides=["optimizer.lr=0.001"])
    ledger.finish(0, TrialState.COMPLETE, [1.0], metrics={"val/loss": 1.0})
    yield ledger
    ledger.close()


def change(**values):
    """The record of the sweep with other values."""
    content = yaml.safe_load((SWEEP / SWEEP_FILE).read_text())
    (SWEEP / SWEEP_FILE).write_text(yaml.safe_dump({**content, **values}))


def spoil(key, value):
    """The first row of the ledger with another value of an attribute."""
    with sqlite3.connect(SWEEP / DATABASE) as database:
        database.execute("DELETE FROM trial_user_attributes WHERE key = ? AND trial_id = 1", (key,))
        row = (key, value if isinstance(value, bytes) else json.dumps(value))
        database.execute(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, ?, ?)", row
        )
    database.close()


def contents(folder="."):
    return {path: path.is_file() and path.read_bytes() for path in sorted(Path(folder).rglob("*"))}


@pytest.mark.parametrize("name", ["../precious", "..", ".", "", "a/b", "/tmp", "a\\b", "link"])
@pytest.mark.one_in(4)
def test_a_row_names_nothing_but_a_folder_of_its_sweep(name, sweep, refusal):
    Path("precious").mkdir()
    Path("precious/thesis.txt").write_text("thesis")
    (SWEEP / "link").symlink_to("../precious")
    spoil("folder", name)
    for words in (["sweep", "status", "sweep"], ["compare", "sweep", "out=null"]):
        refusal(words)
    for ask in (sweep.run_of, sweep.log_of):
        with pytest.raises(ConfigError, match=r"not the name of something|a link"):
            ask(sweep.row(0))
    assert Path("precious/thesis.txt").read_text() == "thesis"


def test_a_folder_that_is_no_run_is_never_removed(sweep):
    folder = SWEEP / "1_x"
    folder.mkdir()
    (folder / "thesis.txt").write_text("thesis")
    with pytest.raises(RunError, match="not a run of this sweep"):
        make_way(folder, is_resumable=True)
    assert (folder / "thesis.txt").read_text() == "thesis"


def test_what_a_killed_run_has_left_makes_way(sweep):
    folder = SWEEP / "1_x"
    (folder / CONFIG).parent.mkdir(parents=True)
    (folder / ENVIRONMENT).write_text("{}")
    make_way(folder, is_resumable=True)
    with new_run_folder(folder, config={"seed": 1}, overrides=[], is_fixed=True) as begun:
        assert begun == folder and (folder / CONFIG).read_text() == "seed: 1\n"


@pytest.mark.parametrize(
    ("is_resumable", "is_over", "stays"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
def test_only_an_unfinished_run_that_cannot_be_resumed_is_removed(
    is_resumable, is_over, stays, sweep
):
    folder = SWEEP / "1_x"
    with new_run_folder(folder, config={}, overrides=[], is_fixed=True):
        pass
    if is_over:
        (folder / WEIGHTS).write_bytes(b"")
    make_way(folder, is_resumable=is_resumable)
    assert (folder / CONFIG).exists() == folder.exists() == stays


WRONG = {
    "a point": ("point", "x"),
    "a seed": ("seed", "1"),
    "a seed that is none": ("seed", [1]),
    "a seed that no run may have": ("seed", -5),
    "overrides": ("overrides", "optimizer.lr=1"),
    "an override": ("overrides", [1]),
    "a folder": ("folder", {"a": 1}),
    "metrics": ("metrics", [1]),
    "a metric": ("metrics", {"val/loss": "\x1b[31m"}),
    "no metric of a trial that is done": ("metrics", {}),
    "seconds": ("seconds", "1"),
    "seconds below 0": ("seconds", -1),
    "an error": ("error", 1),
    "a worker": ("worker", 1),
    "a worker without end": ("worker", "1" * 10**5),
    "when it lived": ("alive", "now"),
    "what it repeats": ("retry_of", {}),
    "no JSON": ("error", b"{"),
}


@pytest.mark.parametrize(("key", "value"), WRONG.values(), ids=WRONG)
@pytest.mark.one_in(4)
def test_a_row_of_another_kind_is_one_line(key, value, sweep, refusal):
    spoil(key, value)
    assert "not what firstlight writes" in refusal(["sweep", "status", "sweep"])


UNREADABLE = {
    "a state": "UPDATE trials SET state = 'LOST' WHERE trial_id = 1",
    "a date": "UPDATE trials SET datetime_complete = 'yesterday' WHERE trial_id = 1",
    "a distribution": (
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (1,"
        " 'a', 1, '{}')"
    ),
    "a direction": "UPDATE study_directions SET direction = 'UP'",
}
VERBS = [
    ["sweep", "status"],
    ["sweep", "best"],
    ["sweep", "resume"],
    ["sweep", "retry"],
    ["compare"],
]


def execute(sql):
    with sqlite3.connect(SWEEP / DATABASE) as database:
        database.execute(sql)
    database.close()


@pytest.mark.parametrize("words", VERBS, ids=str)
@pytest.mark.parametrize("sql", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.one_in(4)
def test_a_ledger_that_optuna_makes_no_sense_of_is_one_line_and_its_backup_is_told(
    sql, words, sweep, refusal, capfd
):
    sweep.close()
    execute(sql)
    line = refusal([*words, "sweep", *(["out=null"] if words == ["compare"] else [])])
    assert "not what firstlight writes" in line
    command = line.rpartition("is used after: ")[2].strip()
    subprocess.run(command, shell=True, check=True)
    assert main(["sweep", "status", "sweep"]) == 0
    assert "2 trials: 1 planned, 1 done" in capfd.readouterr().out


@pytest.mark.parametrize("words", VERBS, ids=str)
@pytest.mark.parametrize(
    ("version", "told"), [("v3.0.0.a", "optuna storage upgrade --storage"), ("v99", "pip install")]
)
@pytest.mark.one_in(4)
def test_a_ledger_of_another_version_of_optuna_is_one_line(version, told, words, sweep, refusal):
    sweep.close()
    execute(f"UPDATE alembic_version SET version_num = '{version}'")
    assert told in refusal([*words, "sweep", *(["out=null"] if words == ["compare"] else [])])


@pytest.mark.parametrize(
    "text", ["output_dir=precious", "hydra.run.dir=x", "init_from=x", "optimizer.lr=3e-3", "x"]
)
@pytest.mark.one_in(4)
def test_overrides_of_a_row_are_those_of_its_sweep(text, sweep, refusal):
    with pytest.raises(ConfigError, match="not a value that"):
        trial_overrides(sweep.record, [text], 1)
    spoil("overrides", [text])
    assert "not a value that" in refusal(["sweep", "best", "sweep"])


@pytest.mark.parametrize(
    "text", ["output_dir=precious", "hydra.run.dir=x", "hydra/launcher=x", "resume=x", "+seeds=3"]
)
@pytest.mark.one_in(4)
def test_arguments_of_a_record_are_those_of_a_trial(text, sweep, refusal):
    change(arguments=[*sweep.record.arguments, text])
    assert "is not an argument of a trial" in refusal(["sweep", "status", "sweep"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("seeds", "1"), ("seeds", [-5]), ("config", []), ("config_dir", 1), ("settings", {"a": 1})],
)
@pytest.mark.one_in(4)
def test_a_record_of_another_kind_is_one_line(key, value, sweep, refusal):
    change(**{key: value})
    assert f"{SWEEP_FILE}: damaged: " in refusal(["sweep", "status", "sweep"], several=True)


STORAGES = [
    "sqlite:///stolen_${oc.env:FIRSTLIGHT_TEST_SECRET}.db",
    "sqlite:///other.db",
    "postgresql://x:y@127.0.0.1:1/z",
]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "words", [["sweep", "status"], ["sweep", "best"], ["sweep", "resume"], ["compare"]], ids=str
)
@pytest.mark.one_in(4)
def test_a_storage_is_not_opened_because_a_file_names_it(storage, words, sweep, refusal):
    change(storage=storage)
    line = refusal([*words, "sweep", *(["out=null"] if words == ["compare"] else [])])
    assert shlex.quote(f"storage={storage}") in line and SECRET not in line


def test_a_storage_that_the_command_names_is_opened_but_not_made(sweep, refusal, capfd):
    change(storage=STORAGES[0])
    again = f"storage={STORAGES[0]}"
    assert "no such file" in refusal(["sweep", "status", "sweep", again])
    other = Ledger.create(SWEEP, replace(sweep.record, storage=STORAGES[0]), directions=["min"])
    other.add([{"params": {}, "attributes": {"point": 0, "seed": 1}}])
    other.close()
    assert main(["sweep", "status", "sweep", again]) == 0
    assert "1 trial: 1 planned" in capfd.readouterr().out


@pytest.mark.long
def test_a_sweep_with_a_storage_is_resumed_by_its_command_or_with_the_storage(capfd, monkeypatch):
    monkeypatch.setenv("LEDGER", "mine")
    storage = "sqlite:///${oc.env:LEDGER}.db"
    command = ["train", "-m", *COMMAND, f"sweep.storage={storage}"]
    assert main(command) == 0
    assert main(command) == 0
    assert main(["sweep", "resume", "sweep", f"storage={storage}"]) == 0
    assert main(["compare", "sweep", "windows=0", "out=null", f"storage={storage}"]) == 0
    assert main(["train", "-m", *COMMAND]) == 2
    assert "storage was " in capfd.readouterr().err


def test_a_record_looks_up_no_variable_that_the_command_does_not_name(sweep):
    text = "data.path=${oc.env:FIRSTLIGHT_TEST_SECRET}.txt"
    Path(f"{SECRET}.txt").write_text(Path("text.txt").read_text())
    arguments = [word for word in COMMAND if not word.startswith(("data.path=", "output_dir="))]
    folder = planned([*arguments, text, "output_dir=other"], None)  # the user's own
    assert main(["sweep", "resume", str(folder)]) == 2
    with pytest.raises(ConfigError, match=r"variables=\[FIRSTLIGHT_TEST_SECRET\]"):
        main_resume(folder, [])
    main_resume(folder, ["FIRSTLIGHT_TEST_SECRET"])


def main_resume(folder, variables):
    from firstlight.interpolation import only_variables

    with only_variables(variables):
        complete(folder, storage=None, config_dir=None, words=[])


def test_settings_of_a_record_are_not_resolved(sweep, refusal):
    settings = {**sweep.record.settings, "objectives": ["${oc.env:FIRSTLIGHT_TEST_SECRET}"]}
    change(settings=settings)
    line = refusal(["sweep", "status", "sweep"])
    assert SECRET not in line and "${oc.env:FIRSTLIGHT_TEST_SECRET}" in line


def test_a_folder_of_configs_is_read_only_if_the_command_names_it(sweep, refusal):
    Path("conf").mkdir()
    change(config_dir=str(Path("conf").absolute()))
    assert "--config-dir" in refusal(["sweep", "resume", "sweep"])
    with pytest.raises(ConfigError, match="--config-dir"):
        complete(SWEEP, storage=None, config_dir="elsewhere", words=[])
    complete(SWEEP, storage=None, config_dir="conf", words=[])


def half_written(file):
    """Leave a database as a process leaves it that is killed within a change."""
    import subprocess
    import sys

    write = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1],"
        " isolation_level=None);db.execute('PRAGMA cache_size = 1'); db.execute('PRAGMA cache_spill"
        " = 1'); db.execute('BEGIN IMMEDIATE');db.execute('CREATE TABLE junk"
        " (a)');db.executemany('INSERT INTO junk VALUES (?)', [('x' * 5000,)] * 200); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", write, str(file)], check=False, timeout=60)


def with_a_log(file):
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.close()


SPOILT = {
    "as it is": lambda file: None,
    "half written": half_written,
    "damaged": lambda file: file.write_bytes(b"SQLite format 3\0" + b"x" * 3000),
    "gone": lambda file: file.unlink(),
    "with a write-ahead log": with_a_log,
}


@pytest.mark.parametrize("spoil_file", SPOILT.values(), ids=SPOILT)
@pytest.mark.one_in(4)
def test_who_only_looks_writes_nothing(spoil_file, sweep, capfd):
    sweep.close()
    spoil_file(SWEEP / DATABASE)
    (SWEEP / ".sweep.lock").unlink(missing_ok=True)
    before = contents()
    assert main(["sweep", "status", "sweep"]) == 0
    assert "2 trials: 1 planned, 1 done" in capfd.readouterr().out
    with pytest.raises(ConfigError, match="no such folder"):  # the trial of this ledger never ran
        find_runs(["sweep"])
    assert contents() == before


@pytest.mark.parametrize("words", [["sweep", "status"], ["sweep", "resume"], ["compare"]], ids=str)
def test_a_journal_that_names_another_file_does_not_have_it_deleted(words, sweep):
    """SQLite deletes the "super-journal" that a journal names at its end, once it has played the
    journal back.
    """
    sweep.close()
    precious = Path("precious").absolute()
    precious.write_text("thesis")
    half_written(SWEEP / DATABASE)
    journal, name = SWEEP / f"{DATABASE}-journal", str(precious).encode()
    page, magic = (0xFFFFFFFF).to_bytes(4, "big"), bytes.fromhex("d9d505f920a163d7")
    size, checksum = len(name).to_bytes(4, "big"), (sum(name) % 2**32).to_bytes(4, "big")
    with journal.open("ab") as stream:
        stream.write(page + name + size + checksum + magic)
    main([*words, str(SWEEP)])
    assert precious.read_text() == "thesis"


def test_a_view_in_the_place_of_a_table_is_not_asked(sweep, refusal):
    sweep.close()
    backup_of(SWEEP / DATABASE).unlink()
    (SWEEP / "logs").mkdir()  # trials have been made
    with sqlite3.connect(SWEEP / DATABASE) as database:
        database.execute("ALTER TABLE trials RENAME TO others")
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
        database.execute(f"CREATE VIEW trials AS {endless}")
    database.close()
    assert "views or triggers" in refusal(["sweep", "status", "sweep"])


def test_a_folder_of_configs_of_another_sweep_is_not_read_by_the_same_command(
    tmp_path, sweep, refusal
):
    sweep.close()
    change(config_dir=str(tmp_path))
    assert "holds another sweep: config_dir" in refusal(["train", "-m", *COMMAND])


@pytest.mark.parametrize(
    "name", [f"{DATABASE}.tmp", f".{DATABASE}.backup.tmp", f"{DATABASE}.backup"]
)
def test_a_backup_is_not_written_through_a_link(name, sweep):
    Path("precious").write_text("thesis")
    (SWEEP / name).unlink(missing_ok=True)
    (SWEEP / name).symlink_to("../precious")
    sweep.back_up()
    assert Path("precious").read_text() == "thesis"
    assert not backup_of(SWEEP / DATABASE).is_symlink() or name == f"{DATABASE}.tmp"


@pytest.mark.parametrize(
    "name", ["sweep.yaml", DATABASE, f"{DATABASE}-journal", ".sweep.lock", "logs", "0_lr-1e-3"]
)
@pytest.mark.one_in(4)
def test_a_sweep_with_a_link_out_of_it_is_not_resumed(name, sweep):
    sweep.close()
    Path("precious").mkdir()
    target = Path("precious", name)
    if (SWEEP / name).exists():
        (SWEEP / name).rename(target)
    elif name in ("logs", "0_lr-1e-3"):
        target.mkdir()
    else:
        target.write_bytes(b"thesis")
    (SWEEP / name).symlink_to(target.absolute())
    before = contents("precious")
    with pytest.raises(ConfigError, match="a link that leads out"):
        complete(SWEEP, storage=None, config_dir=None, words=[])
    with pytest.raises(ConfigError, match="a link that leads out"):
        planned(COMMAND, None)
    assert contents("precious") == before


@pytest.mark.parametrize(
    "name", [DATABASE, f"{DATABASE}-journal", ".sweep.lock", f"{DATABASE}.backup"]
)
def test_a_file_that_has_another_name_outside_keeps_what_it_has_there(name, sweep):
    sweep.close()
    other = Path("precious")
    if (SWEEP / name).exists():
        other.hardlink_to(SWEEP / name)
    else:
        other.write_bytes(b"thesis")
        (SWEEP / name).hardlink_to(other)
    before = other.read_bytes()
    ledger = Ledger.open(SWEEP)
    ledger.note(1, seconds=5.0)
    ledger.back_up()
    ledger.close()
    assert other.read_bytes() == before
    assert read_sweep(SWEEP) == sweep.record
