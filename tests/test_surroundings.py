"""The tests themselves: what surrounds them on one machine or another changes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SURROUNDINGS = {
    "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "lamps", "RANK": "1",
    "LOCAL_RANK": "1", "WORLD_SIZE": "2", "FORCE_COLOR": "1", "COLUMNS": "40", "HTTPS_PROXY": "http://127.0.0.1:9",
    "FIRSTLIGHT_ALLOW_TARGETS": "os", "HF_HUB_OFFLINE": "0", "HOME": "/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0",
}  # fmt: skip
"""Of a user in a job of a cluster, behind a proxy, whose locale knows no letters but ASCII's."""
TOUCHED = (
    "tests/test_surroundings.py",
    "tests/training/test_fit.py::test_a_run_folder_says_what_the_run_was",
    "tests/training/test_stopping.py::test_a_signal_stops_the_run_after_the_step_and_saved",
    "tests/sweep/test_sweep.py::test_the_trials_of_a_sweep_are_the_runs_of_its_command_line",
)
"""Tests that one of them has changed."""


def test_the_tests_and_the_processes_that_they_start_have_one_thread():
    assert torch.get_num_threads() == 1
    code = "import torch; print(torch.get_num_threads())"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "1\n"
    )


def test_nothing_that_a_scheduler_or_a_user_has_set_is_left():
    assert [name for name, value in SURROUNDINGS.items() if os.environ.get(name) == value] == []
    assert Path.home().is_dir() and list(Path.home().glob("*.txt")) == []


def test_what_stops_a_run_is_not_ignored():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        assert signal.getsignal(number) != signal.SIG_IGN


@pytest.mark.long
def test_the_tests_pass_in_the_surroundings_of_others():
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "-m",
        "not long",
        *TOUCHED,
    ]
    in_the_background = ["bash", "-c", "trap '' INT HUP; exec \"$@\"", "bash", *words]
    environment = {**os.environ, **SURROUNDINGS}
    done = subprocess.run(
        in_the_background, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
