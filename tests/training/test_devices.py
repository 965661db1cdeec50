"""Several processes train on the same global batches as one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import TINY, rows_of, same_weights

from firstlight.checkpoints.find import checkpoints_of
from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder

pytestmark = pytest.mark.cpu


def test_two_processes_train_what_one_trains(train):
    # Dropout draws by shard, and what is drawn for one also depends on its parts.
    overrides = [
        "model.drop_rate=0.2",
        "trainer.max_steps=10",
        "trainer.virtual_shards=2",
        "trainer.micro_batch_size=3",
    ]
    assert train("one", *overrides) == 0
    subprocess.run(
        [sys.executable, "-m", "firstlight", "train", *TINY, "output_dir=two", *overrides,
         "trainer.devices=2", "trainer.strategy=ddp"],
        check=True, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert not Path("two_2").exists()
    one, two = rows_of("one"), rows_of("two")
    assert len(two) == 11
    for row, twin in zip(one, two, strict=True):
        for name in ("train/loss", "val/loss", "train/batch_loss", "grad_norm"):
            if row[name]:
                assert float(twin[name]) == pytest.approx(float(row[name]), abs=2e-5)
    assert len(RunFolder(Path("two")).rows) == 11


DROPOUT = (
    "model.drop_rate=0.2", "model.n_layers=2", "trainer.virtual_shards=4", "data.drop_last=false",
    "callbacks.checkpoint.every_n_steps=4",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("ddp", ["trainer.micro_batch_size=1"]),
        ("fsdp2", ["trainer.micro_batch_size=1"]),
        ("ddp", ["trainer.activation_checkpointing=true"]),
        ("fsdp2", ["trainer.activation_checkpointing=true", "model.dropout=torch"]),
    ],
)
def test_with_virtual_shards_dropout_is_the_same_on_one_two_and_one_processes(
    strategy, more, train
):
    """The last batch of an epoch has 6 windows: of its 4 shards two have one window each."""
    assert train("one", *DROPOUT, *more) == 0
    assert {int(row["tokens"]) % 128 for row in rows_of("one")} == {0, 96, 64, 32}
    assert train("run", *DROPOUT, *more, "trainer.max_steps=8") == 0
    two = ["trainer.devices=2", f"trainer.strategy={strategy}", "trainer.max_steps=16"]
    resumed = run("resume=run", *two)
    assert resumed.returncode == 0, resumed.stderr
    back = ["trainer.devices=1", "trainer.strategy=auto", "trainer.max_steps=24"]
    assert main(["train", "resume=run", *back]) == 0
    assert_same_curve("run", "one")


def test_a_run_of_one_process_draws_for_a_shard_what_it_drew_without_the_key(train, trained):
    trained("run")
    assert train("one_shard", "trainer.virtual_shards=1") == 0
    assert rows_of("one_shard") == rows_of("run")
    assert train("shards", "trainer.virtual_shards=4", "trainer.max_steps=1") == 0
    # Other masks of the same windows.
    losses = [float(rows_of(name)[1]["train/batch_loss"]) for name in ("run", "shards")]
    assert losses[1] != pytest.approx(losses[0], abs=1e-4) and abs(losses[1] - losses[0]) < 0.1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trainer.devices=2", "trainer.virtual_shards=3"], "(3) must be a multiple of the proces"),
        (["trainer.virtual_shards=9"], "(9) must be at most data.batch_size (8)"),
        (["trainer.virtual_shards=2", "order=book"], "needs random numbers that follow from the"),
        (["trainer.virtual_shards=0"], "expected int > 0 and <= 1048576 or null"),
    ],
)
def test_virtual_shards_that_cannot_be_are_refused_in_one_line(train, capsys, words, reason):
    assert train("run", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("firstlight: trainer") and reason in said and said.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.long
def test_two_processes_share_a_batch_that_they_cannot_divide(train):
    """Batches of 3 windows and of 1: a process has 2 or 1 of them, or 1 or none. The step is that
    of all 4.
    """
    Path("text.txt").write_text(
        "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 2
    )
    overrides = [
        "metrics=[default,top1_accuracy]",
        *(
            "model.drop_rate=0",
            "data.shuffle=false",
            "data.drop_last=false",
            "data.train_ratio=0.45",
        ),
        *("trainer.max_steps=4", "trainer.eval_every_n_steps=2", "trainer.gradient_clip_val=null"),
    ]
    assert train("one", *overrides, "data.batch_size=4") == 0
    command = [
        sys.executable,
        "-m",
        "firstlight",
        "train",
        *TINY,
        "output_dir=two",
        *overrides,
        "data.batch_size=3",
    ]
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accumulate_grad_batches=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *devices], check=True, timeout=900, env=environment)
    for row, twin in zip(rows_of("one"), rows_of("two"), strict=True):
        for name in ("tokens", "train/batch_loss", "grad_norm", "val/loss", "val/bits_per_byte"):
            if row[name]:
                assert float(twin[name]) == pytest.approx(float(row[name]), rel=2e-5)
        if row[
            "val/top1_accuracy"
        ]:  # but for a token of which two ids are as probable, to rounding
            assert float(twin["val/top1_accuracy"]) == pytest.approx(
                float(row["val/top1_accuracy"]), abs=1.1 / 90
            )


def environment(**more):
    """That of a command which may name our callbacks."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | more


TWO = ("trainer.devices=2", "trainer.strategy=ddp", "callbacks.checkpoint.every_n_steps=4")
ENDLESS = ("trainer.max_steps=100000", "trainer.eval_every_n_steps=100000", "trainer.timeout=10")
PROGRAM = (sys.executable, "-m", "firstlight", "train")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run(*words, begin=PROGRAM, cwd=None, **more):
    return subprocess.run(
        [*begin, *words],
        cwd=cwd,
        timeout=900,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )


def callback(kind, **arguments):
    settings = [f"+callbacks.test.{key}={value}" for key, value in arguments.items()]
    return [f"+callbacks.test._target_=stop_at.{kind}", *settings]


@pytest.mark.long
def test_two_processes_stop_together_and_go_on_exactly(train):
    whole = run(*TINY, *TWO, "output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    stopped = run(*TINY, *TWO, *callback("SignalFirstAt", batch=13), "output_dir=parts")
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stdout.count("train resume=parts") == 1
    resumed = run("resume=parts", "~callbacks.test")
    assert resumed.returncode == 0, resumed.stderr
    assert rows_of("parts") == rows_of("whole")
    assert same_weights("parts", "whole")


@pytest.mark.parametrize(
    ("signum", "reason"),
    [
        pytest.param("SIGKILL", "was ended by SIGKILL", id="killed"),
        pytest.param("SIGSTOP", "for 10 s (trainer.timeout)", id="stopped", marks=pytest.mark.long),
    ],
)
def test_a_process_that_is_lost_ends_the_run_and_is_named(signum, reason):
    hit = callback("SignalFurtherAt", batch=13, name=signum)
    ended = run(*TINY, *TWO, *ENDLESS, *hit, "output_dir=run")
    assert ended.returncode == 1, ended.stderr
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("firstlight: rank 1 (process ") and reason in first
    assert "the newest checkpoint is that of step 12; resume with" in rest[0] and len(rest) == 2
    assert checkpoints_of(Path("run"))[-1].name == "step_00000012"


@pytest.mark.long
def test_torchrun_starts_them_all_and_again_after_a_loss():
    assert run(*TINY, *TWO, "output_dir=whole").returncode == 0
    hit = callback("SignalFurtherAt", batch=13, name="SIGKILL", attempt=0)
    restarted = run(
        *("-m", "firstlight", "train", *TINY, *TWO, *hit, "resume=auto", "output_dir=run"),
        begin=[*TORCHRUN, "--max-restarts=1"],
    )
    assert restarted.returncode == 0, restarted.stderr
    assert "firstlight: rank 1 (process " in restarted.stderr
    assert rows_of("run") == rows_of("whole") and same_weights("run", "whole")
    assert not Path("run_2").exists()


def test_a_mistake_is_one_line_whatever_has_started_the_processes():
    refused = run(
        *("-m", "firstlight", "train", *TINY, "trainer.devices=3", "output_dir=run"), begin=TORCHRUN
    )
    said = [line for line in refused.stderr.splitlines() if line.startswith("firstlight: ")]
    assert len(said) == 1 and said[0].endswith("give trainer.devices=2")
    assert refused.returncode == 1 and not Path("run").exists()


SRUN = """#!/bin/sh
# Two tasks on one machine, as SLURM's srun would start them.
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_NODEID=0 SLURM_STEP_NODELIST=localhost
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & further=$!
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"
code=$?
wait $further
exit $code
"""


@pytest.mark.long
def test_the_sbatch_file_trains_is_requeued_and_resumed(tmp_path):
    assert run(*TINY, *TWO, "output_dir=whole").returncode == 0
    (tmp_path / "bin").mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": f"#!/bin/sh\necho $@ > '{tmp_path / 'asked'}'\n",
        "firstlight": f"#!/bin/sh\nexec '{sys.executable}' -m firstlight \"$@\"\n",
    }.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    slurm = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "lamps",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS_PER_NODE": "2", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    job = ["bash", str(Path(__file__).parents[2] / "examples" / "train.sbatch")]
    words = [*TINY, *TWO[1:], *callback("SignalAt", batch=13, names="[SIGUSR1]"), "output_dir=run"]
    saved = run(*words, begin=job, **slurm)
    assert saved.returncode == 138, saved.stderr
    assert saved.stdout.count("stopped after step 14") == 1
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    done = run(*words, begin=job, **slurm, SLURM_RESTART_COUNT="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: 24 steps") == 1
    assert rows_of("run") == rows_of("whole") and same_weights("run", "whole")
    assert not Path("run_2").exists()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.long
def test_two_machines_make_one_run_which_one_may_lengthen(train):
    """Two commands with Lightning's variables, as on two machines: one folder, one log, one bar."""
    same = ("model.drop_rate=0", "trainer.log_every_n_steps=1", "trainer.eval_every_n_steps=4")
    assert train("one", *same, "trainer.max_steps=12") == 0
    words = [*TINY, *same, "trainer.max_steps=8", "output_dir=run"]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [
        subprocess.Popen(
            [*PROGRAM, *words, "trainer.num_nodes=2"],
            env=environment(**where, NODE_RANK=str(node)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    (said, _), further = (node.communicate(timeout=900) for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0]
    assert said.count("done: 8 steps") == 1 and further == ("", "")
    assert not Path("run_2").exists() and not Path("node_2").exists()
    longer = ["trainer.num_nodes=1", "trainer.max_steps=12"]
    assert main(["train", "resume=run", *longer]) == 0
    assert_same_curve("run", "one")


@pytest.mark.long
def test_a_run_may_change_its_devices(train):
    """From one process to two, to one, to four: the same batches, losses to rounding."""
    same = ["model.drop_rate=0", "callbacks.checkpoint.every_n_steps=4"]
    assert train("one", *same) == 0
    assert train("run", *same, "trainer.max_steps=5") == 0
    for devices, steps in ((2, 10), (1, 15), (4, 24)):
        length = [f"trainer.devices={devices}", f"trainer.max_steps={steps}"]
        resumed = run("resume=run", *length)
        assert resumed.returncode == 0, resumed.stderr
    assert_same_curve("run", "one")


def assert_same_curve(run, other):
    rows, others = rows_of(run), {row["step"]: row for row in rows_of(other)}
    assert {row["step"] for row in rows} == set(others)
    for row in rows:
        twin = others[row["step"]]
        for name in ("train/batch_loss", "grad_norm", "train/loss", "val/loss"):
            if row[name] and twin[name]:  # evaluations at the ends of the parts come in addition
                assert float(row[name]) == pytest.approx(float(twin[name]), rel=1e-6), name
