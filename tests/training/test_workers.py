"""Helper processes: whatever ends one, whatever signal their group gets, the run ends between two
steps, saved.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import active_children, parent_process
from pathlib import Path

import pytest
from tiny_run import TINY, rows_of, same_weights

from firstlight.checkpoints.find import checkpoints_of
from firstlight.cli import main
from firstlight.data.windows import TensorWindows
from firstlight.process_group import started

WORKERS = ["data.num_workers=2", "trainer.accumulate_grad_batches=3"]


def steps_of(folder):
    return [int(path.name.removeprefix("step_")) for path in checkpoints_of(Path(folder))]


def assert_ends_saved(train, capsys, said, *overrides):
    assert train("parts", *WORKERS, *overrides) == 1
    error = capsys.readouterr().err
    assert f"firstlight: a data worker {said}" in error and "data.num_workers=0" in error
    assert "train resume=parts" in error and "Traceback" not in error
    assert steps_of("parts")[-1] == int(rows_of("parts")[-1]["step"]) < 24
    assert not active_children()


@pytest.mark.parametrize(
    ("batch", "hook"),
    [
        pytest.param(31, "on_train_batch_start", id="within an accumulation"),
        pytest.param(24, "on_validation_start", id="before an evaluation"),
    ],
)
def test_a_killed_worker_ends_the_run_between_two_steps_and_saved(train, capsys, batch, hook):
    assert train("whole", *WORKERS) == 0
    kill = ["_target_=stop_at.KillWorkerAt", f"batch={batch}", f"hook={hook}"]
    said = "was ended by SIGKILL, perhaps because memory ran out"
    assert_ends_saved(train, capsys, said, *(f"+callbacks.test.{word}" for word in kill))
    assert main(["train", "resume=parts", "~callbacks.test", "data.num_workers=0"]) == 0
    assert rows_of("parts") == rows_of("whole") and same_weights("parts", "whole")
    assert Path("parts/samples.txt").read_bytes() == Path("whole/samples.txt").read_bytes()


def fail_in_a_worker(monkeypatch, error):
    gather = TensorWindows.__getitem__

    def fail(self, index):
        if parent_process() is not None and 7 in index:
            raise error
        return gather(self, index)

    monkeypatch.setattr(TensorWindows, "__getitem__", fail)


def test_an_error_in_a_worker_ends_the_run_between_two_steps_and_saved(train, capsys, monkeypatch):
    assert train("whole", *WORKERS) == 0
    with monkeypatch.context() as patch:
        fail_in_a_worker(patch, RuntimeError("there is no window 7"))
        assert_ends_saved(train, capsys, "failed (RuntimeError: there is no window 7)")
    assert main(["train", "resume=parts"]) == 0
    assert rows_of("parts") == rows_of("whole") and same_weights("parts", "whole")


def test_workers_that_cannot_be_started_end_the_run_saved(train, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    assert train("run", *WORKERS) == 1
    error = capsys.readouterr().err
    assert "a data worker failed (OSError: [Errno 28] No space left on device)" in error
    assert steps_of("run") == [1]


def test_an_evaluation_whose_worker_dies_measures_the_same(train, capsys, monkeypatch):
    assert train("run", "trainer.max_steps=2") == 0
    evaluate = [
        "evaluate",
        "format=json",
        "checkpoint=run",
        "data=text",
        "data.path=text.txt",
        "split=train",
        "data.batch_size=4",
    ]
    capsys.readouterr()
    assert main(evaluate) == 0
    alone = capsys.readouterr().out
    fail_in_a_worker(monkeypatch, LookupError("lost"))
    assert main([*evaluate, "data.num_workers=2"]) == 0
    said = capsys.readouterr()
    assert said.out == alone and "failed (LookupError: 'lost'" in said.err.replace(
        "lost)", "'lost'"
    )


def test_a_run_with_workers_has_the_numbers_of_one_without(train):
    assert train("without") == 0
    handler = signal.getsignal(signal.SIGCHLD)
    assert train("with", "data.num_workers=2") == 0
    assert rows_of("with") == rows_of("without") and same_weights("with", "without")
    assert signal.getsignal(signal.SIGCHLD) == handler or handler is None  # torch's raises anywhere
    assert not active_children()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


@pytest.fixture
def group():
    """A process that leads a group of its own, which is killed afterwards."""
    begun = []

    def start(*command):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        begun.append(
            subprocess.Popen(
                command, start_new_session=True, env=environment, stdout=pipe, stderr=pipe
            )
        )
        return begun[-1]

    yield start
    for leader in begun:
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.communicate()


ENDLESS = ["trainer.max_steps=100000", "trainer.eval_every_n_steps=100000", "output_dir=run"]


ELSEWHERE = (
    "from firstlight import process_group; process_group._PR_SET_PDEATHSIG = 0  # no such call of"
    " the system"
)
"""Helper processes learn of the end of their parent as they do where the system is not Linux."""


@pytest.mark.parametrize(
    ("name", "code", "system"),
    [
        ("SIGTERM", 143, ""),
        ("SIGKILL", -9, ""),
        pytest.param("SIGKILL", -9, ELSEWHERE, marks=pytest.mark.long),
    ],
)
def test_a_signal_to_the_whole_group_loses_nothing_and_leaves_nothing(group, name, code, system):
    """As `scancel`, `systemctl stop` and `timeout` send it; SIGKILL to the run alone, as the kernel
    does.
    """
    if not Path("/proc/self/task").exists():
        pytest.skip("what a process has started is read in /proc")
    start = f"{system}\nimport sys\nfrom firstlight.cli import main\nsys.exit(main())"
    leader = group(sys.executable, "-c", start, "train", *TINY, *ENDLESS, "data.num_workers=2")
    wait_for(lambda: len(rows_of("run")) > 3 or leader.poll() is not None)
    helpers = children_of(leader.pid)
    assert len(helpers) >= 2
    (os.kill if name == "SIGKILL" else os.killpg)(leader.pid, getattr(signal, name))
    out, err = leader.communicate(timeout=60)
    assert leader.returncode == code, out + err
    if name == "SIGTERM":
        assert b"stopped after step" in out and b"Traceback" not in err
        assert steps_of("run")[-1] == int(rows_of("run")[-1]["step"])
    wait_for(lambda: not any(map(started, helpers)))


HELPER = f"""
{ELSEWHERE}
import os, sys, time

def work(parent):
    process_group.end_with(parent)
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    work(int(sys.argv[1]))
"""
STARTS = {
    "a program": (
        "import subprocess; subprocess.Popen([sys.executable, 'helper.py', str(os.getpid())])"
    ),
    "by multiprocessing": (
        "import helper, multiprocessing; multiprocessing.Process(target=helper.work,"
        " args=(os.getpid(),)).start()"
    ),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_process_ends_with_the_one_that_started_it_on_every_system(group, start):
    Path("helper.py").write_text(HELPER)
    leader = group(sys.executable, "-c", f"import os, sys, time; {start}; time.sleep(600)")
    helper = int(leader.stdout.readline())
    leader.kill()
    wait_for(lambda: not started(helper), seconds=30)


def test_a_signal_to_the_group_does_not_end_the_server_from_which_trials_are_forked(group):
    Path("sweeping_apart.py").write_text(
        "import os, time\nfrom pathlib import Path\n\ndef work():\n    os.setsid()\n   "
        " Path('began').touch()\n    time.sleep(1.5)\n    return 7\n"
    )
    Path("lead.py").write_text(
        "import os, signal, sys\nfrom pathlib import Path\nfrom sweeping_apart import work\n"
        "from firstlight.training.process import start_process, start_server\n\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "    start_server([])\n"
        "    process = start_process(work, log=Path('log'), environment=os.environ)\n"
        "    process.join()\n    sys.exit(process.exitcode)\n"
    )
    leader = group(sys.executable, "lead.py")
    wait_for(lambda: Path("began").exists() or leader.poll() is not None)
    os.killpg(leader.pid, signal.SIGTERM)
    out, err = leader.communicate(timeout=60)
    assert leader.returncode == 7, out + err
