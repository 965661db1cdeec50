"""What the trials of a sweep differ in: keys of the config, and the values each may have."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from firstlight.compose.compose import parse_overrides
from firstlight.compose.grammar import MOST_TRIALS, interval_of, not_values, values_of
from firstlight.compose.lengths import replaced_by
from firstlight.errors import ConfigError
from firstlight.overrides import ready
from firstlight.sweep.settings import Settings, conditional_key

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Values = dict[str, Any]
"""A point: the value of each key that is set there."""


def _written(number: float) -> str:
    """A drawn number as it is given on the command line."""
    return f"{number:.6g}" if isinstance(number, float) else str(number)


@dataclass(frozen=True)
class Parameter:
    """A key that is swept over.

    `values` holds an override for each choice; None if numbers are drawn from an interval.
    """

    key: str
    distribution: Distribution
    values: dict[Any, str] | None
    condition: str | None = None
    """An override that a trial must have for this key to be set."""

    def override(self, value: Any) -> str:
        """`key=value` as it is given on the command line, a drawn number with six digits."""
        if self.values is not None:
            return self.values[value]
        return f"{self.key}={_written(value)}"

    def has(self, text: str) -> bool:
        """Is `text` an override of this parameter, with one of its values?"""
        if self.values is not None:
            return text in self.values.values()
        # Optuna keeps a float exactly, its override has six digits: both ends are rounded likewise.
        low, *_, high = self.ends()
        try:
            value = type(low)(text.partition("=")[2])
        except ValueError:
            return False
        if text != self.override(value):  # firstlight would have written it in another way
            return False
        return float(_written(low)) <= value <= float(_written(high))

    def ends(self) -> list[Any]:
        """Values that stand for all: each choice, or both ends of an interval and one in between.

        Of an interval of whole numbers only the ends.
        """
        if self.values is not None:
            return list(self.values)
        assert not isinstance(self.distribution, CategoricalDistribution)
        low, high = self.distribution.low, self.distribution.high
        if isinstance(self.distribution, IntDistribution):
            return [low, high]
        # The ends are often special (0 or 1): a number between them stands for all others.
        return [low, low + 0.618 * (high - low), high]


@dataclass(frozen=True)
class Space:
    """`fixed` are the overrides that all trials have."""

    fixed: list[str]
    parameters: list[Parameter]

    def is_grid(self, settings: Settings) -> bool:
        """Whether its points are listed, not drawn."""
        if settings.sampler is not None:
            return settings.sampler == "grid"
        return all(parameter.values is not None for parameter in self.parameters)

    def point(self, choose: Callable[[Parameter], Any]) -> Values:
        """A value for each parameter whose condition holds, in their order."""
        chosen: Values = {}
        for parameter in self.parameters:
            if self._holds(parameter, chosen):
                chosen[parameter.key] = choose(parameter)
        return chosen

    def overrides(self, point: Values) -> list[str]:
        """What distinguishes this point, as it is given on the command line."""
        return [p.override(point[p.key]) for p in self.parameters if p.key in point]

    def grid(self) -> list[Values]:
        """Every point, the last parameter changing fastest.

        If there are more than MOST_TRIALS, only the first MOST_TRIALS + 1 or so: enough to refuse
        them.
        """
        points: list[Values] = [{}]
        for parameter in self.parameters:
            longer: list[Values] = []
            for point in points:
                if self._holds(parameter, point):
                    longer += [{**point, parameter.key: value} for value in parameter.values or {}]
                else:
                    longer.append(point)
            points = longer[: MOST_TRIALS + 1]  # enough to see that there are too many
        return points

    def examples(self) -> list[Values]:
        """Points that cover each choice and each end of an interval once.

        The other parameters have their first value there.
        """
        firsts = {parameter.key: parameter.ends()[0] for parameter in self.parameters}
        points = [self.point(lambda parameter: firsts[parameter.key])]
        for parameter in self.parameters:
            for value in parameter.ends()[1:]:
                values = {**firsts, parameter.key: value}
                points.append(self.point(lambda parameter, values=values: values[parameter.key]))
        return points

    def _holds(self, parameter: Parameter, chosen: Values) -> bool:
        if parameter.condition is None:
            return True
        return parameter.condition in self.fixed or parameter.condition in self.overrides(chosen)


def space_of(overrides: list[str], settings: Settings, config_dir: str | None = None) -> Space:
    """The space of `sweep.params` and of a command line's overrides, which win.

    Raises:
        ConfigError: values that cannot be listed, or a condition on what is not swept over.
    """
    fixed: list[Override] = []
    swept: dict[str, Parameter] = {}
    for override in overrides_of(overrides, settings, config_dir).values():
        if override.is_sweep_override():
            parameter = parameter_of(override, settings.seed)
            swept[parameter.key] = parameter
        else:
            fixed.append(override)
    for rule in settings.only_if:
        key, condition = _condition(rule, swept, fixed, config_dir)
        swept[key] = replace(swept[key], condition=condition)
    return Space([str(override.input_line) for override in fixed], list(swept.values()))


def overrides_of(
    overrides: list[str], settings: Settings, config_dir: str | None = None
) -> dict[str, Override]:
    """The overrides of `sweep.params` and of a command line, which win, by `name_of` their key."""
    params = []
    for key, value in settings.params.items():
        text = value if isinstance(value, str) else json.dumps(value)
        params.append(ready(f"{key}={text}", config_dir, multirun=True))
    # Of sweep.params those that the command line does not set.
    given = _by_key(overrides)
    replaced = {*given, *replaced_by(given.values())}
    found = {key: override for key, override in _by_key(params).items() if key not in replaced}
    return found | given


def _by_key(overrides: list[str]) -> dict[str, Override]:
    """Overrides by key; the last of each key counts."""
    return {name_of(override): override for override in parse_overrides(overrides)}


def name_of(override: Override) -> str:
    """The key of an override, whether it adds, changes or deletes it."""
    package = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{package}"


def _condition(
    rule: str, swept: dict[str, Parameter], fixed: list[Override], config_dir: str | None
) -> tuple[str, str]:
    """The key of a rule, and its condition as the overrides of a trial have it.

    Raises:
        ConfigError: no such key, or the condition can never hold.
    """
    shown = f"sweep.only_if ({rule})"
    keys, key = list(swept), conditional_key(rule)
    condition = ready(rule.partition(" if ")[2].strip(), config_dir)
    if "=" not in condition:
        raise ConfigError(f"{shown}: write 'KEY if OTHER=VALUE'")
    if key not in keys:
        raise ConfigError(f"{shown}: {key} is not swept over")
    [wanted] = parse_overrides([condition])
    on = wanted.get_key_element()
    # A named sweep may be narrowed to one value: then the rule holds for all trials, or for none.
    for override in fixed:
        if override.get_key_element() == on:
            holds = override.value() == wanted.value()
            return key, str(override.input_line) if holds else condition
    if on not in keys:
        raise ConfigError(f"{shown}: {on} is neither swept over nor given")
    if keys.index(on) > keys.index(key):
        raise ConfigError(f"{shown}: {on} must be given before {key}, which depends on it")
    choices = list((swept[on].values or {}).values())
    for text, override in zip(choices, parse_overrides(choices), strict=True):
        if override.value() == wanted.value():  # values, not texts: 1e-3 is 0.001
            return key, text
    raise ConfigError(f"{shown}: it never holds (there is {', '.join(choices) or 'an interval'})")


def parameter_of(override: Override, seed: int) -> Parameter:
    """What an override with several values sweeps over.

    Raises:
        ConfigError: its values cannot be listed, or drawn from.
    """
    key, interval = override.get_key_element(), interval_of(override)
    if interval is not None:
        try:
            return Parameter(key, _drawn_from(interval), None)
        # Optuna's, of tag(log, int, interval(0.5, 8)): 0 has no place on a logarithmic scale.
        except ValueError as error:
            raise not_values(override, error) from None
    # Listed values. Optuna's distribution must be the same in every process of the sweep.
    choices = values_of(override, seed)
    kinds = {type(value) for value in choices.values()}
    # Numbers stay numbers, for dashboards. Other values are texts: true would equal 1, and a list
    # cannot be a key.
    if not kinds <= {int, float}:
        texts = {text.partition("=")[2]: text for text in choices}
        return Parameter(key, CategoricalDistribution(list(texts)), texts)
    numbers = {number: text for text, number in choices.items()}
    written = override.value()
    if isinstance(written, RangeSweep) and not written.shuffle and kinds == {int}:
        step = int(abs(written.step))
        return Parameter(key, IntDistribution(min(numbers), max(numbers), step=step), numbers)
    return Parameter(key, CategoricalDistribution(list(numbers)), numbers)


def _drawn_from(interval: IntervalSweep) -> Distribution:
    low, high, is_log = interval.start, interval.end, "log" in interval.tags
    assert low is not None and high is not None
    is_whole = isinstance(low, int) and isinstance(high, int)
    if is_whole or "int" in interval.tags:
        return IntDistribution(int(low), int(high), log=is_log)
    return FloatDistribution(float(low), float(high), log=is_log)
