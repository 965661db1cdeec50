"""Workers of several machines: the last one to leave looks whether the others live."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from no_settings import NO_SETTINGS
from optuna.trial import TrialState

from firstlight.errors import ConfigError, RunError
from firstlight.sweep import ledger as ledgers
from firstlight.sweep import signs
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.record import SweepRecord
from firstlight.sweep.signs import await_signs

RECORD = SweepRecord(
    arguments=[],
    config_dir=None,
    config={},
    settings=vars(NO_SETTINGS),
    n_trials=2,
    seeds=[1],
    version="0",
)
ROWS = [
    {"params": {}, "attributes": {"point": n, "seed": 1, "overrides": [f"a={n}"]}} for n in range(2)
]


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """A ledger whose rows are both being made by a worker of another machine."""
    monkeypatch.setattr(signs, "PAUSE", 0.02)
    RECORD.write(tmp_path)
    ledger = Ledger.create(tmp_path, RECORD, directions=["min"])
    ledger.add(ROWS)
    for number in range(2):
        assert ledger.take() == number
        ledger.note(number, worker="lamp02:1:1", alive=time.time())
    yield ledger
    ledger.close()


def never():
    return False


def later(seconds, act):
    """Do something in another thread in a moment, as another worker would."""
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def with_another(folder, act):
    """What `act` does to a ledger of another worker's own."""

    def do():
        other = Ledger.open(folder)
        try:
            act(other)
        finally:
            other.close()

    return do


def test_a_worker_that_falls_silent_is_noticed_and_its_trial_is_taken(ledger, monkeypatch, capsys):
    assert ledger.take() is None  # the other worker seems to be alive
    # Two minutes pass.
    later(0.2, lambda: monkeypatch.setattr(ledgers, "DEAD_AFTER", 0.0))
    assert await_signs(ledger, never)
    assert ledger.take() == 0
    assert "trial 0: its worker on lamp02 has given no sign of life for" in capsys.readouterr().err


def test_a_worker_that_gives_a_sign_of_life_is_left_alone(ledger, tmp_path):
    def beat(other):
        for number in range(2):
            other.note(number, alive=time.time() + 1)

    later(0.2, with_another(tmp_path, beat))
    began = time.monotonic()
    assert not await_signs(ledger, never)
    assert time.monotonic() - began < ledgers.DEAD_AFTER / 2
    assert ledger.take() is None


def test_trials_that_end_or_are_freed_meanwhile(ledger, tmp_path):
    def end(other):
        other.finish(0, TrialState.COMPLETE, [1.0], metrics={"val/loss": 1.0})
        other.free(1)

    later(0.2, with_another(tmp_path, end))
    assert await_signs(ledger, never)  # the second one is to be made
    assert ledger.take() == 1
    ledger.finish(1, TrialState.COMPLETE, [1.0], metrics={"val/loss": 1.0})
    assert not await_signs(ledger, never)


def test_a_signal_ends_the_waiting(ledger):
    assert not await_signs(ledger, lambda: True)


def test_clocks_that_differ_do_not_make_it_wait_for_ever(ledger, monkeypatch):
    monkeypatch.setattr(ledgers, "DEAD_AFTER", 0.2)
    monkeypatch.setattr(ledgers, "BEAT", 0.1)
    for number in range(2):
        ledger.note(number, alive=time.time() + 10_000)
    assert not await_signs(ledger, never)


PROGRAM = [sys.executable, "-m", "firstlight"]
QUICK = [
    sys.executable,
    "-c",
    "import sys; from firstlight.sweep import ledger; ledger.BEAT, ledger.DEAD_AFTER = 0.5, 3.0;"
    " from firstlight.cli import main; sys.exit(main())",
]
"""The same, which notices silence after three seconds instead of two minutes."""
MACHINE = [
    *("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", 'hostname lamp02; exec "$@"', "sh"),
]
"""A machine of its own, as far as a worker can tell: killed, all of its processes are gone."""
SWEEP = [
    *("model.emb_dim=16", "model.n_layers=1", "model.n_heads=2", "model.context_length=16"),
    *("tokenizer=bytes", "data.batch_size=4", "data.eval_batches=1", "trainer.max_steps=40"),
    *("trainer.eval_every_n_steps=20", "scheduler=constant", "trainer.accelerator=cpu"),
    *("callbacks=[checkpoint]", "callbacks.checkpoint.every_n_steps=5", "logger=[csv]"),
    "optimizer.lr=1e-3,3e-3,1e-2",
]
SRUN = """#!/bin/sh
# One task, as SLURM's srun would start it.
while [ "${1#--}" != "$1" ]; do shift; done
echo $$ > "worker_$SLURM_ARRAY_TASK_ID"
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
exec "$@"
"""


def states(folder, *words):
    """The states of all trials, as `firstlight sweep status` tells them; [] before there are any."""
    asked = [*PROGRAM, "sweep", "status", str(folder), "format=json", *words]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return []
    return [(trial["state"], trial["worker"]) for trial in json.loads(done.stdout)["trials"]]


def is_running(folder):
    """Whether a trial is; the ledger itself is asked, as a command would take as long as a trial."""
    with suppress(ConfigError, RunError), closing(Ledger.open(folder, read_only=True)) as ledger:
        return any(row.state == "running" for row in ledger.rows())
    return False


def wait_until(holds, process=None, seconds=300):
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "it did not come to that"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture
def started():
    """Start a process whose output is kept; whatever still runs at the end is killed."""
    running = []

    def start(words, **settings):
        settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(words, start_new_session=True, **settings))
        return running[-1]

    yield start
    for process in running:
        with suppress(ProcessLookupError):  # all of its session
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM is Linux's")
def test_the_sbatch_file_of_a_sweep_plans_once_and_a_worker_is_requeued(
    tmp_path, monkeypatch, started
):
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": "#!/bin/sh\necho $@ >> asked\n",
        "firstlight": f"#!/bin/sh\nexec '{sys.executable}' -m firstlight \"$@\"\n",
    }.items():
        Path("bin", name).write_text(text)
        Path("bin", name).chmod(0o755)
    job = ["bash", str(Path(__file__).parents[2] / "examples" / "sweep.sbatch"), *SWEEP]

    def begin(task, **more):
        slurm = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_NAME": "lamps",
            "SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(42 + task),
        }  # fmt: skip
        return started(job, env={**os.environ, **slurm, **more})

    first = begin(0)
    folder = Path("outputs/sweep_42")
    wait_until(lambda: is_running(folder), first)
    second = begin(1)
    os.kill(int(Path("worker_0").read_text()), signal.SIGUSR1)  # what --signal=USR1@120 sends
    told = first.communicate(timeout=300)
    assert first.returncode == 128 + signal.SIGUSR1, told
    assert Path("asked").read_text() == "requeue 42_0\n"  # once, and not by its trial as well
    again = begin(0, SLURM_RESTART_COUNT="1")
    for worker in (second, again):
        told = worker.communicate(timeout=300)
        assert worker.returncode == 0, told
    assert [state for state, _ in states(folder)] == ["done"] * 3
    assert len(list(folder.glob("*_optimizer.lr-*"))) == 3


PASSWORD = "harbour-7193"
"""Of the server; nothing else here has these letters, which messages would hide."""


def postgres_bin():
    """The folder of PostgreSQL's programs, which Debian keeps out of PATH; None without them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path))
    return found[-1].parent if found else None


@pytest.fixture
def postgres(tmp_path_factory):
    """A server of our own on this machine, with a password; yields its address without it."""
    pytest.importorskip("psycopg")
    programs = postgres_bin()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    import pwd  # not on every system

    # It refuses to run as root, and a user of its own must get to its folder.
    user = {}
    if os.getuid() == 0:
        try:
            user = {"user": pwd.getpwnam("postgres").pw_uid, "extra_groups": []}
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    place = Path(tempfile.mkdtemp(prefix="fl_pg_", dir="/tmp"))
    place.chmod(0o777)
    (place / "password").write_text(PASSWORD)
    (place / "password").chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    def run(program, *words):
        subprocess.run(
            [programs / program, *words], cwd=place, check=True, capture_output=True, **user
        )

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place}"
    try:
        run("initdb", "-D", "data", "-U", "keeper", "--pwfile=password", "-A", "scram-sha-256")
        run("pg_ctl", "-D", "data", "-w", "-o", options, "-l", "log", "start")
        try:
            yield f"127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="a host name of its own needs Linux")
def test_a_ledger_in_postgresql_is_shared_by_machines_and_a_lost_worker_is_noticed(
    postgres, tmp_path, monkeypatch, started
):
    """A second machine is a process with a host name of its own; it is killed in its trial."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    storage = f"sweep.storage=postgresql://keeper:${{oc.env:PGPASSWORD}}@{postgres}"
    if subprocess.run([*MACHINE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("a host name of its own is not allowed here (unshare --uts --pid)")
    begun = [
        *QUICK,
        "train",
        "-m",
        *SWEEP[:-1],
        "optimizer.lr=1e-3,3e-3",
        storage,
        "output_dir=sweep",
    ]
    lost = started([*MACHINE, *begun])
    told = storage.removeprefix("sweep.")
    wait_until(lambda: any(Path("sweep").glob("0_*/checkpoints/step_*")), lost)
    lost.kill()
    lost.communicate()
    [(state, worker), *_] = states("sweep", told)
    assert state == "running" and worker.startswith("lamp02:")
    words = [*QUICK, "sweep", "resume", "sweep", told]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 0: its worker on lamp02 has given no sign of life" in done.stderr
    assert "(resumed)" in done.stdout
    found = states("sweep", told)
    assert [state for state, _ in found] == ["done"] * 2
    assert not any(worker.startswith("lamp02:") for _, worker in found)
    kept = [file for file in Path("sweep").rglob("*") if file.is_file()]
    assert kept and not any(PASSWORD.encode() in file.read_bytes() for file in kept)
