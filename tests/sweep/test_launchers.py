"""How many trials a launcher is given at once, whichever it is."""

import os

import pytest
from omegaconf import OmegaConf

from firstlight.errors import ConfigError, RunError
from firstlight.sweep.launchers import trials_at_once, with_losses_told

BASIC = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
LOCAL = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}
SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}


@pytest.mark.parametrize(
    ("launcher", "batch_size", "at_once"),
    [
        (BASIC, None, 1),
        (BASIC, 1, 1),
        (JOBLIB | {"n_jobs": 3}, None, 3),
        (JOBLIB | {"n_jobs": -1}, None, os.cpu_count()),
        (JOBLIB | {"n_jobs": 3}, 6, 6),
        (LOCAL | {"tasks_per_node": 1}, None, 1),
        (LOCAL | {"tasks_per_node": 1}, 4, 4),
        (SLURM | {"array_parallelism": 256}, None, 256),
        ({"_target_": "my.Launcher"}, 2, 2),
    ],
)
def test_it_is_given_as_many_as_it_was_told(launcher, batch_size, at_once):
    assert trials_at_once(OmegaConf.create(launcher), batch_size) == at_once


@pytest.mark.parametrize("batch_size", [0, -1, "many", 1.5, True])
def test_what_is_not_a_number_of_trials_is_refused(batch_size):
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.max_batch_size: expected int >= 1"):
        trials_at_once(OmegaConf.create(JOBLIB), batch_size)


def test_hydras_own_launcher_makes_one_at_a_time():
    with pytest.raises(ConfigError, match="hydra/launcher=basic makes one trial at a time"):
        trials_at_once(OmegaConf.create(BASIC), 2)


class UncompletedJobError(RuntimeError):
    """submitit's, of a job that was killed or ran into its timeout_min."""


def losing(jobs, first):
    raise UncompletedJobError(f"Job 1 (task: 0)\nhas not produced {first}")


def test_a_job_that_a_launcher_has_lost_is_one_line_and_an_error_of_ours_stays_what_it_is():
    lost = r"^hydra/launcher: UncompletedJobError: Job 1 \(task: 0\) has not produced 3$"
    with pytest.raises(RunError, match=lost):
        with_losses_told(losing, OmegaConf.create(LOCAL))([["a=1"]], 3)
    with pytest.raises(UncompletedJobError):
        with_losses_told(losing, OmegaConf.create(BASIC))([["a=1"]], 3)
