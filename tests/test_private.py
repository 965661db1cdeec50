"""Every private place in private.py does what firstlight needs of it.

A test that fails names the place that a new version of its library has moved.
"""

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import optuna
import pytest
import tiktoken
from omegaconf import OmegaConf
from optuna.trial import TrialState

from firstlight.private import (
    id_of_study,
    id_of_trial,
    pattern_of,
    processes_of,
    ranks_of,
    replace_distributions,
    resolvers_of_omegaconf,
)

RANKS = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257}


def test_processes_of_a_pool_are_those_that_work():
    place = "concurrent.futures: ProcessPoolExecutor._processes"
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert processes_of(pool) == [], place
        worker = pool.submit(os.getpid).result()
        [process] = processes_of(pool)
        assert process.pid == worker, place
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, place
    assert processes_of(pool) == [], place


def test_an_encoding_is_built_again_from_its_ranks_and_its_pattern():
    special = {"<|endoftext|>": 258}
    first = tiktoken.Encoding(
        "test", pat_str=r"\w+| ?\W", mergeable_ranks=RANKS, special_tokens=special
    )
    assert ranks_of(first) == RANKS, "tiktoken: Encoding._mergeable_ranks"
    assert pattern_of(first) == r"\w+| ?\W", "tiktoken: Encoding._pat_str"
    again = tiktoken.Encoding(
        "again",
        pat_str=pattern_of(first),
        mergeable_ranks=ranks_of(first),
        special_tokens=special,
    )
    assert again.encode("the thaw") == first.encode("the thaw") == [257, 32, 256, 97, 119]


def test_optunas_numbers_of_a_study_and_a_trial_are_those_that_its_storage_takes():
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage).ask()  # so that the numbers of the next one are others
    study = optuna.create_study(storage=storage)
    study.ask()
    [trial] = study.get_trials()
    known = storage.get_study_id_from_name(study.study_name)
    assert id_of_study(study) == known, "optuna: Study._study_id"
    storage.set_trial_state_values(id_of_trial(trial), state=TrialState.FAIL)
    [trial] = study.get_trials()
    assert trial.state == TrialState.FAIL, "optuna: FrozenTrial._trial_id"


def test_the_resolvers_of_omegaconf_are_those_that_a_config_uses():
    OmegaConf.register_new_resolver("of_this_test", str.upper)
    try:
        assert "of_this_test" in resolvers_of_omegaconf(), "omegaconf: BaseContainer._resolvers"
        del resolvers_of_omegaconf()["of_this_test"]
        assert not OmegaConf.has_resolver("of_this_test"), "omegaconf: BaseContainer._resolvers"
    finally:
        OmegaConf.clear_resolver("of_this_test")


def test_a_parameter_of_a_study_gets_choices_that_optuna_alone_refuses(tmp_path):
    place = "optuna: TrialParamModel.distribution_json and .param_value"
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/ledger.db")
    study, other = optuna.create_study(storage=storage), optuna.create_study(storage=storage)
    for trial in (study.ask(), other.ask()):
        trial.suggest_int("n", 4, 4)
        trial.suggest_categorical("model", ["b"])
    choices = {"n": ["x", 4], "model": ["a", "b", "c"]}
    new = {
        name: optuna.distributions.CategoricalDistribution(values)
        for name, values in choices.items()
    }
    with pytest.raises(ValueError, match="dynamic value space"):
        study.ask().suggest_categorical("model", choices["model"])
    replace_distributions(storage, id_of_study(study), new)
    again = optuna.load_study(study_name=study.study_name, storage=storage)
    assert again.trials[0].params == {"n": 4, "model": "b"}, place
    assert again.trials[0].distributions == new, place
    assert again.ask().suggest_categorical("model", choices["model"]) in choices["model"], place
    theirs = optuna.load_study(study_name=other.study_name, storage=storage).trials[0]
    assert theirs.distributions["model"] != new["model"]  # another study of the database
    storage.remove_session()
    storage.engine.dispose()
