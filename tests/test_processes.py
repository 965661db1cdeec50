"""Which process of a run this is: a launcher that has started it decides, and variables that others
have left do not.
"""

import inspect
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import firstlight.interpolation  # noqa: F401 (its resolvers)
from firstlight import launchers, processes
from firstlight.cli import main
from firstlight.errors import ConfigError
from firstlight.runs.environment import slurm_job
from firstlight.training.cluster import OwnProcesses
from firstlight.training.stopping import in_slurm_job
from firstlight.training.trainer import Trainer
from firstlight.verbs import OF_PROCESSES

LEFT_OVER = {
    "RANK": "1", "LOCAL_RANK": "abc", "WORLD_SIZE": "4", "NODE_RANK": "x", "GROUP_RANK": "-1", "MASTER_PORT": "none",
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3",
    "JSM_NAMESPACE_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "0",
    "PL_TRAINER_FAST_DEV_RUN": "1", "PL_GLOBAL_SEED": "abc", "PL_SEED_WORKERS": "abc", "COLUMNS": "1", "TERM": "dumb",
}  # fmt: skip


@pytest.fixture
def left_over(monkeypatch):
    monkeypatch.setattr(processes, "_known", processes._Known())
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def started_by(monkeypatch):
    """As if this process had been started by the process `pid`, as number `rank` on its machine."""

    def start(pid, rank="1"):
        monkeypatch.setattr(processes._known, "was_started", False)
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
    assert (processes.is_further(), processes.shared_run_folder()) == (False, None)
    assert launchers.find_place(1, 1) is None
    alone = launchers.find_place(4, 1)
    assert (alone.rank, alone.world_size, alone.one_per_device) == (0, 4, False)
    ours = OwnProcesses()
    assert (ours.local_rank(), ours.node_rank(), ours.world_size()) == (0, 0, 1)


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


def test_only_a_child_of_the_first_process_is_a_further_one(started_by, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29000")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    started_by(os.getppid())
    assert processes.is_further() and launchers.find_place(2, 1).rank == 1
    assert processes.shared_run_folder() == Path("/runs/a")
    processes.begin()
    assert os.environ["LOCAL_RANK"] == "1"
    started_by(os.getppid() + 1)  # inherited, by way of a command that a callback has started
    assert not processes.is_further() and processes.shared_run_folder() is None


def test_a_further_process_stays_one_when_the_first_has_died(started_by, monkeypatch):
    started_by(os.getppid())
    processes.begin()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert processes.is_further() and processes.was_launched()


@pytest.mark.parametrize("rank", ["0", "", "abc", "-1", "1.0"])
def test_a_child_without_a_rank_is_not_a_further_process(started_by, rank):
    started_by(os.getppid(), rank)
    assert not processes.is_further() and launchers.find_place(2, 1).rank == 0


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1",
    "MASTER_ADDR": "one", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "1", "SLURM_JOB_NAME": "lamps", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "lamp[07-08]",
}  # fmt: skip


@pytest.fixture
def begun_with(monkeypatch, tmp_path):
    """As if this process had been started with these variables, and below such a command."""

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def begin(variables, above=""):
        monkeypatch.setattr(processes, "_known", processes._Known())
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(launchers, "commands_above", lambda: iter(["bash", above]))
        processes.begin()

    return begin


@pytest.mark.parametrize(
    "agent", ["python /bin/torchrun --nnodes=2", "python -m torch.distributed.run x"]
)
def test_torchrun_counts_where_it_runs_above_this_process(begun_with, agent):
    begun_with(TORCHRUN, agent)
    place = launchers.find_place(2, 2)
    assert (place.rank, place.local_rank, place.node_rank, place.world_size) == (3, 1, 1, 4)
    assert place.one_per_device and place.store_is_there
    assert (place.address, place.port, place.attempt) == ("one", 29500, "none/0")
    assert launchers.several_tasks(4) is None


def test_what_is_left_of_torchrun_does_not_count(begun_with):
    begun_with(TORCHRUN)
    assert launchers.find_place(1, 1) is None
    assert launchers.find_place(2, 1).rank == 0 and not launchers.find_place(2, 1).one_per_device
    assert "TORCHELASTIC_RUN_ID: torchrun does not run above" in str(launchers.several_tasks(1))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (4, 1), (1, 4)])
def test_torchrun_must_start_as_many_processes_as_there_are_devices(begun_with, sizes):
    begun_with(TORCHRUN, "torchrun")
    with pytest.raises(ConfigError, match=r"give trainer.devices=2 trainer.num_nodes=2$"):
        launchers.find_place(*sizes)


@pytest.mark.parametrize("words", [["evaluate", "checkpoint=x"], ["train", "-m", "seed=1,2"]])
def test_what_is_one_command_is_not_started_by_torchrun(begun_with, monkeypatch, capsys, words):
    begun_with(TORCHRUN, "torchrun")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("firstlight: torchrun has started 4 processes") and said.count("\n") == 1
    monkeypatch.setitem(processes._known.taken, "LOCAL_RANK", "0")
    assert main(words) == 2
    assert capsys.readouterr().err == ""  # another process of this machine has said it
    monkeypatch.setitem(processes._known.taken, "TORCHELASTIC_RESTART_COUNT", "1")
    assert main(words) == 2
    assert capsys.readouterr().err == said


def test_a_mistake_is_told_before_another_process_ends_and_has_all_ended(begun_with, monkeypatch):
    """torchrun ends every process as soon as one has ended: those that are silent must wait."""
    begun_with(TORCHRUN, "torchrun")
    told = []
    with ThreadPoolExecutor() as pool:
        with launchers.telling() as is_first:
            assert is_first
            other = pool.submit(_tells, told)
            time.sleep(0.2)
            assert not other.done()
            told.append("the first")
        other.result()
    assert told == ["the first"]
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    _tells(told)
    assert told == ["the first", "another"]


def test_a_link_in_the_temporary_folder_is_not_followed(begun_with, tmp_path):
    begun_with(TORCHRUN, "torchrun")
    told = []
    _tells(told)
    [file] = tmp_path.glob("firstlight-*")
    file.unlink()
    file.symlink_to(tmp_path / "victim")
    _tells(told)
    assert told == ["another", "another"] and not (tmp_path / "victim").exists()


def _tells(told):
    with launchers.telling() as is_first:
        if is_first:
            told.append("another")


def test_a_task_of_srun_for_each_device(begun_with):
    begun_with(SLURM | {"MASTER_ADDR": "left-over"})
    place = launchers.find_place(2, 2)
    assert (place.rank, place.local_rank, place.node_rank, place.address) == (3, 1, 1, "lamp07")
    assert place.one_per_device and not place.store_is_there
    assert place.port in launchers.PORTS and launchers.several_tasks(4) is None
    told = []
    _tells(told)
    _tells(told)
    assert told == ["another"]
    processes.take(place)
    _tells(told)
    assert told == ["another", "another"]


def test_a_task_of_srun_for_each_machine(begun_with):
    begun_with(SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "MASTER_PORT": "29000"})
    place = launchers.find_place(4, 2)
    assert (place.rank, place.world_size, place.one_per_device) == (4, 8, False)
    assert place.port == 29000


@pytest.mark.parametrize("sizes", [(2, 1), (3, 2), (1, 2), (8, 1)])
def test_srun_must_start_as_many_tasks_as_there_are_devices(begun_with, sizes):
    begun_with(SLURM)
    with pytest.raises(
        ConfigError, match=r"srun has started 4 tasks; it needs --nodes=\d --ntasks"
    ):
        launchers.find_place(*sizes)


def test_tasks_of_a_shell_or_of_a_sweep_do_not_count(begun_with, monkeypatch):
    begun_with(SLURM | {"SLURM_JOB_NAME": "bash"})
    assert launchers.find_place(2, 1).rank == 0
    begun_with(SLURM | {processes.SWEEP: "/sweep", processes.TRIAL: "3"})
    assert launchers.find_place(2, 1).rank == 0


def test_several_tasks_of_one_launcher_are_told(monkeypatch):
    monkeypatch.setattr(processes, "_known", processes._Known())
    for name in launchers.TASKS:
        monkeypatch.delenv(name, raising=False)
    assert launchers.several_tasks(1) is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    processes.begin()
    assert "started 4 times, and each process trains its own" in str(launchers.several_tasks(1))


@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "²", "9" * 400])
def test_a_number_that_is_none_is_one_line_that_names_the_variable(monkeypatch, value, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", value)
    assert main(["train", "data=text", "data.path=x"]) == 2
    said = capsys.readouterr().err
    assert "environment variable SLURM_RESTART_COUNT" in said and said.count("\n") == 1


def test_several_machines_need_to_be_told_their_place(begun_with):
    begun_with({"MASTER_ADDR": "one"})
    with pytest.raises(ConfigError, match="NODE_RANK must be set on every machine"):
        launchers.find_place(1, 2)
    begun_with({"NODE_RANK": "2"})
    with pytest.raises(ConfigError, match=r"NODE_RANK \(2\) must be below trainer.num_nodes"):
        launchers.find_place(1, 2)
    begun_with({"MASTER_ADDR": "one", "NODE_RANK": "1", "MASTER_PORT": "99999"})
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        launchers.find_place(1, 2)
    begun_with({"MASTER_ADDR": "one", "NODE_RANK": "1", "MASTER_PORT": "29000"})
    place = launchers.find_place(3, 2)
    assert (place.rank, place.address, place.port, place.one_per_device) == (3, "one", 29000, False)


def test_lightnings_variables_are_those_of_one_process_for_each_device(begun_with):
    begun_with(
        {
            "MASTER_ADDR": "one",
            "MASTER_PORT": "29000",
            "NODE_RANK": "1",
            "LOCAL_RANK": "2",
            "WORLD_SIZE": "6",
        }
    )
    place = launchers.find_place(3, 2)
    assert (place.rank, place.one_per_device) == (5, True)
    assert launchers.find_place(2, 2).one_per_device is False  # of another run: WORLD_SIZE is not 4


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


def test_what_must_be_known_before_the_processes_meet_has_the_defaults_of_the_trainer():
    parameters = inspect.signature(Trainer).parameters
    for key, default in OF_PROCESSES.items():
        assert parameters[key.removeprefix("trainer.")].default == default
