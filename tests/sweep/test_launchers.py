"""How many trials a launcher is given at once, whichever it is."""

import os

import pytest
from omegaconf import OmegaConf

from firstlight.errors import ConfigError
from firstlight.sweep.launchers import trials_at_once

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
