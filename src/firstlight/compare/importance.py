"""How much each key of the config matters for a metric, over the configs that are compared."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from firstlight.compare.groups import NOTHING, Group

FEWEST = 5
"""Configs; fewer say nothing."""


def importance(groups: list[Group], values: list[float]) -> dict[str, float] | None:
    """Shares of each key that differs, which add up to 1; None of too few configs, or of one key.

    PED-ANOVA (Watanabe et al. 2023): how far the better half of the configs is from all of them, by key. A key that not
    all configs have is not judged. `values` are the lower the better.
    """
    shared = [k for k in groups[0].settings if all(group.settings[k] != NOTHING for group in groups)]
    if len(groups) < FEWEST or len(shared) < 2:
        return None
    columns = {key: [_plain(group.settings[key]) for group in groups] for key in shared}
    distributions = {key: _distribution(column) for key, column in columns.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for n, value in enumerate(values):
        params = {
            key: column[n] if isinstance(distributions[key], FloatDistribution) else str(column[n])
            for key, column in columns.items()
        }
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.5))


def _plain(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _distribution(column: list[Any]) -> BaseDistribution:
    if all(isinstance(value, float) for value in column):
        low, high = min(column), max(column)
        return FloatDistribution(low, high, log=low > 0 and high / low >= 10)
    return CategoricalDistribution(sorted({str(value) for value in column}))
