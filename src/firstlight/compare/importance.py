"""How much each key of the config matters for a metric, over the configs that are compared."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from firstlight.compare.groups import NOTHING, Group
from firstlight.sweep.study import make_study

FEWEST = 5
"""Fewest configs from which an importance is computed."""


def importance(groups: list[Group], values: list[float]) -> dict[str, float] | None:
    """The share of each differing key, adding up to 1; None for too few configs or keys.

    PED-ANOVA (Watanabe et al. 2023): how far, by key, the better half of the configs is from all of
    them. Keys that some config does not have are left out. Of `values`, one for each group, lower
    is better.
    """
    if len(groups) < FEWEST:
        return None
    columns: dict[str, list[Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for key in groups[0].settings:
        column = [group.settings[key] for group in groups]
        if NOTHING not in column:
            columns[key], distributions[key] = _column(column)
    if len(columns) < 2:
        return None
    # Optuna has the evaluator, which wants a study: one is made of the runs, in memory.
    study = make_study()
    for n, value in enumerate(values):
        params = {key: column[n] for key, column in columns.items()}
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    # The better half, not Optuna's best tenth: of a dozen configs that would be one.
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.5))


def _column(texts: list[str]) -> tuple[list[Any], BaseDistribution]:
    """The values of a key, as numbers if all of them are, and the distribution they come from."""
    values: list[Any] = []
    for text in texts:
        try:
            values.append(float(text))
        except ValueError:
            values.append(text)
    if any(isinstance(value, str) for value in values):
        # Made from the numbers, not the texts, so that 1 and 1.0 are one category.
        categories = list(map(str, values))
        return categories, CategoricalDistribution(sorted(set(categories)))
    # A range of more than a factor of ten, as of learning rates, is compared on a log scale.
    low, high = min(values), max(values)
    return values, FloatDistribution(low, high, log=low > 0 and high / low >= 10)
