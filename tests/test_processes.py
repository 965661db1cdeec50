"""The process that starts the others is the first one: variables that others have left decide
nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import firstlight.interpolation  # noqa: F401 (its resolvers)
from firstlight import processes
from firstlight.cli import main
from firstlight.errors import ConfigError
from firstlight.runs.environment import slurm_job
from firstlight.training.cluster import OwnProcesses
from firstlight.training.stopping import in_slurm_job

LEFT_OVER = {
    "RANK": "1", "LOCAL_RANK": "abc", "WORLD_SIZE": "4", "NODE_RANK": "x", "GROUP_RANK": "-1", "MASTER_PORT": "none",
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3",
    "JSM_NAMESPACE_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "0",
    "PL_TRAINER_FAST_DEV_RUN": "1", "PL_GLOBAL_SEED": "abc", "PL_SEED_WORKERS": "abc", "COLUMNS": "1", "TERM": "dumb",
}  # fmt: skip


@pytest.fixture
def left_over(monkeypatch):
    monkeypatch.setattr(processes, "_taken", {})
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def started_by(monkeypatch):
    """As if this process had been started by the process `pid`, as number `rank` on its machine."""

    def start(pid, rank="1"):
        monkeypatch.setattr(processes, "_was_started", False)
        for name, value in {"RUN_FOLDER": "/runs/a", "FIRST_PROCESS": str(pid)}.items():
            monkeypatch.setenv(getattr(processes, name), value)
        monkeypatch.setenv("LOCAL_RANK", rank)

    return start


def test_what_others_have_left_in_the_environment_is_taken_out_of_it(left_over):
    processes.begin()
    assert not {name for name in LEFT_OVER if "RANK" in name or name.startswith("PL_")} & set(
        os.environ
    )
    assert "SLURM_NTASKS" not in os.environ and "MASTER_PORT" not in os.environ
    assert (processes.is_further(), processes.local_rank(), processes.shared_run_folder()) == (
        False,
        0,
        None,
    )
    ours = OwnProcesses()
    assert (ours.local_rank(), ours.node_rank(), ours.creates_processes_externally) == (0, 0, False)
    assert ours.main_port > 0


def test_a_config_can_still_refer_to_it(left_over):
    processes.begin()
    assert OmegaConf.create({"seed": "${oc.decode:${oc.env:SLURM_PROCID}}"}).seed == 3
    assert processes.given_environment()["RANK"] == "1"


def test_slurm_still_names_the_job(left_over):
    processes.begin()
    assert (slurm_job(), in_slurm_job()) == ("17", True)


def test_an_interactive_shell_in_a_slurm_job_is_not_requeued(left_over, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not in_slurm_job()


def test_only_a_child_of_the_first_process_is_a_further_one(started_by):
    started_by(os.getppid())
    assert processes.is_further() and processes.local_rank() == 1
    assert processes.shared_run_folder() == Path("/runs/a")
    processes.begin()
    assert os.environ["LOCAL_RANK"] == "1"
    started_by(os.getppid() + 1)  # inherited, by way of a command that a callback has started
    assert not processes.is_further() and processes.shared_run_folder() is None


def test_a_further_process_stays_one_when_the_first_has_died(started_by, monkeypatch):
    started_by(os.getppid())
    processes.begin()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert processes.is_further() and processes.local_rank() == 1


@pytest.mark.parametrize("rank", ["0", "", "abc", "-1", "1.0"])
def test_a_child_without_a_rank_is_not_a_further_process(started_by, rank):
    started_by(os.getppid(), rank)
    assert not processes.is_further() and processes.local_rank() == 0


def test_torchrun_is_refused_in_one_line(monkeypatch, capsys):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["train"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("firstlight: torchrun started 2 processes; do not use torchrun")
        and said.count("\n") == 1
    )


@pytest.mark.parametrize("size", ["1", "abc", ""])
def test_what_is_left_of_torchrun_is_not_refused(monkeypatch, size):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", size)
    processes.begin()


def test_several_tasks_of_one_launcher_are_told(monkeypatch):
    monkeypatch.setattr(processes, "_taken", {})
    for name in processes.TASKS:
        monkeypatch.delenv(name, raising=False)
    assert processes.several_tasks() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    processes.begin()
    assert "started 4 times, and each process trains its own run" in str(processes.several_tasks())


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "²", "9" * 400])
def test_a_number_that_is_none_is_one_line_that_names_the_variable(monkeypatch, value, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", value)
    assert main(["train", "data=text", "data.path=x"]) == 2
    said = capsys.readouterr().err
    assert "environment variable SLURM_RESTART_COUNT" in said and said.count("\n") == 1


def test_several_machines_need_to_be_told_their_place(monkeypatch):
    monkeypatch.setattr(processes, "_taken", {})
    for name in ("NODE_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    two = OwnProcesses(num_nodes=2)
    with pytest.raises(ConfigError, match="NODE_RANK must be set on every machine"):
        two.node_rank()
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(ConfigError, match=r"NODE_RANK \(2\) must be below trainer.num_nodes"):
        two.node_rank()
    monkeypatch.setenv("MASTER_PORT", "99999")
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        _ = two.main_port


@pytest.mark.long
def test_a_run_is_whole_whatever_is_left_in_the_environment_and_where_its_output_goes(tmp_path):
    """The variables are also read when Lightning is imported: this takes a process of its own."""
    (tmp_path / "text.txt").write_text("The lamp was lit, and the lamp went out. " * 40)
    tiny = (
        "data=text data.path=text.txt tokenizer=bytes model.context_length=16 model.emb_dim=16"
        " model.n_heads=2 model.n_layers=1 data.batch_size=2 trainer.max_steps=2"
        " trainer.eval_every_n_steps=1 trainer.accelerator=cpu scheduler=constant logger=[csv]"
        " callbacks=[checkpoint,progress] output_dir=run"
    )
    command = [
        sys.executable,
        "-m",
        "firstlight",
        "train",
        *tiny.split(),
        "name=${oc.env:SLURM_PROCID}",
    ]
    closed = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    environment = os.environ | LEFT_OVER | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(closed, cwd=tmp_path, env=environment, timeout=300, check=False)
    assert done.returncode == 0
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 4
    assert (tmp_path / "run" / "model.safetensors").is_file()
