"""Places of libraries that are not public and that are needed all the same, each with its reason.

Those of Lightning and torch are in training/lightning.py. tests/test_private.py uses each, and
names the one that a new version of its library has moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever calls has imported them, and not everybody needs all
    from collections.abc import Mapping
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.process import BaseProcess

    import tiktoken
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial


def processes_of(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    """The processes of a pool, to kill them and to say how one died.

    There are none before the first work is submitted, nor after the pool is shut down. Python 3.14
    brings `kill_workers()`, which kills but does not say.
    """
    processes = pool._processes
    return list(processes.values()) if processes is not None else []


def ranks_of(encoding: tiktoken.Encoding) -> dict[bytes, int]:
    """The id of every token but the special ones; public names give it for one token at a time."""
    return encoding._mergeable_ranks


def pattern_of(encoding: tiktoken.Encoding) -> str:
    """The pattern that cuts a text into words: a tokenizer cannot be stored without it."""
    return encoding._pat_str


def resolvers_of_omegaconf() -> dict[str, Any]:
    """The resolvers that are registered, by name; a public name tells only whether one is.

    A program of the user's may have one of the same name as one of ours.
    """
    from omegaconf.basecontainer import BaseContainer

    return BaseContainer._resolvers


def id_of_trial(trial: FrozenTrial) -> int:
    """The number of a trial in the whole database, which `storage.set_trial_...` wants.

    The public `trial.number` counts within its study; to ask the storage is a query for each trial.
    """
    return trial._trial_id


def id_of_study(study: Study) -> int:
    """The number of a study in the database; to ask the storage for it is a query each time."""
    return study._study_id


def replace_distributions(
    storage: RDBStorage, study: int, distributions: Mapping[str, BaseDistribution]
) -> None:
    """Give parameters of all trials of the `study` with this number other distributions, at once.

    Their values stay. Optuna refuses a trial whose choices are not those of the trials before it,
    and its public way, a copy of the study, would take the trials away from those at work on them.

    Raises:
        ValueError: a trial has a value that is not in its new distribution.
    """
    from optuna.distributions import distribution_to_json, json_to_distribution
    from optuna.storages._rdb.models import TrialModel, TrialParamModel
    from sqlalchemy.orm import Session

    of_study = TrialModel.study_id == study
    with Session(storage.engine) as session, session.begin():
        for name, new in distributions.items():
            text = distribution_to_json(new)
            named: Any = session.query(TrialParamModel).join(TrialModel).filter(of_study)
            named = named.filter(TrialParamModel.param_name == name)
            for parameter in named.filter(TrialParamModel.distribution_json != text):
                old = json_to_distribution(parameter.distribution_json)
                value = old.to_external_repr(parameter.param_value)
                parameter.param_value = new.to_internal_repr(value)
                parameter.distribution_json = text
