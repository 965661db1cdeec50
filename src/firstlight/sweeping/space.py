"""What the trials of a sweep differ in: keys of the config, and the values each may have."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from firstlight.compose import parse_overrides
from firstlight.errors import ConfigError, one_line
from firstlight.sweeping.settings import MOST_TRIALS, Settings


@dataclass(frozen=True)
class Parameter:
    """A key that is swept over. `values` are an override for each choice; None: an interval, from which is drawn."""

    key: str
    distribution: BaseDistribution
    values: dict[Any, str] | None
    condition: str | None = None
    """An override that a trial must have for this key to be set."""

    def override(self, value: Any) -> str:
        """`key=value` as it is given on the command line, a drawn number with six digits."""
        if self.values is not None:
            return self.values[value]
        return f"{self.key}={value:.6g}" if isinstance(value, float) else f"{self.key}={value}"

    def ends(self) -> list[Any]:
        """Values that stand for all: every choice, or of an interval the ends and what lies between."""
        if self.values is not None:
            return list(self.values)
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        low, high = self.distribution.low, self.distribution.high
        between = [] if isinstance(self.distribution, IntDistribution) else [low + 0.618 * (high - low)]
        return [low, *between, high]


@dataclass(frozen=True)
class Space:
    """`fixed` are the overrides that all trials have."""

    fixed: list[str]
    parameters: list[Parameter]

    @property
    def is_discrete(self) -> bool:
        return all(parameter.values is not None for parameter in self.parameters)

    def point(self, choose: Callable[[Parameter], Any]) -> dict[str, Any]:
        """A value for each parameter of which the condition holds, in their order."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._holds(parameter, chosen):
                chosen[parameter.key] = choose(parameter)
        return chosen

    def overrides(self, point: dict[str, Any]) -> list[str]:
        """What distinguishes this point, as it is given on the command line."""
        return [p.override(point[p.key]) for p in self.parameters if p.key in point]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every point; the last parameter changes fastest."""

        def extend(chosen: dict[str, Any], rest: list[Parameter]) -> Iterator[dict[str, Any]]:
            if not rest:
                yield chosen
            elif self._holds(rest[0], chosen):
                for value in rest[0].values or {}:
                    yield from extend({**chosen, rest[0].key: value}, rest[1:])
            else:
                yield from extend(chosen, rest[1:])

        return extend({}, self.parameters)

    def examples(self) -> Iterator[dict[str, Any]]:
        """Points in which each choice and each end of an interval is there once, the others at their first."""
        yield self.point(lambda parameter: parameter.ends()[0])
        for swept in self.parameters:
            for value in swept.ends()[1:]:
                yield self.point(lambda p, swept=swept, value=value: value if p is swept else p.ends()[0])

    def _holds(self, parameter: Parameter, chosen: dict[str, Any]) -> bool:
        return parameter.condition is None or parameter.condition in (*self.fixed, *self.overrides(chosen))


def space_of(overrides: list[str], settings: Settings) -> Space:
    """The space of `sweep.params` and the overrides of a command line, which come before those of the same key.

    Raises:
        ConfigError: values that cannot be listed, or a condition on what is not swept over.
    """
    given = {override.get_key_element() for override in parse_overrides(overrides)}
    params = [f"{key}={_text(value)}" for key, value in settings.params.items()]
    own = [text for text, o in zip(params, parse_overrides(params), strict=True) if o.get_key_element() not in given]
    fixed, parameters = [], []
    texts = [*own, *overrides]
    for text, override in zip(texts, parse_overrides(texts), strict=True):
        if override.is_sweep_override():
            parameters.append(_parameter(text, override, settings.only_if.get(override.get_key_element())))
        else:
            fixed.append(text)
    swept = [parameter.key for parameter in parameters]
    for key, condition in settings.only_if.items():
        on = condition.partition("=")[0]
        if key in swept and on in swept and swept.index(on) > swept.index(key):
            raise ConfigError(f"sweep.only_if.{key}: {on}, which it depends on, must be given before {key}")
        if key not in swept:
            raise ConfigError(f"sweep.only_if.{key}: {key} is not swept over")
    last = {o.get_key_element(): n for n, o in enumerate(parse_overrides(fixed))}
    return Space([text for n, text in enumerate(fixed) if n in last.values()], parameters)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parameter(text: str, override: Override, condition: str | None) -> Parameter:
    key, value = override.get_key_element(), override.value()
    try:
        if isinstance(value, IntervalSweep):
            return Parameter(key, _interval(value), None, condition)
        texts = list(islice(override.sweep_string_iterator(), MOST_TRIALS + 1))
        plain: list[Any] = list(islice(override.sweep_iterator(Transformer.identity), MOST_TRIALS + 1))
    except (HydraException, ValueError, AttributeError) as error:  # range(1, 5, 0), interval(2, 1)
        raise ConfigError(f"{text}: these are no values to sweep over: list them ({one_line(error)})") from None
    if len(texts) > MOST_TRIALS:
        raise ConfigError(f"{key}: a sweep has at most {MOST_TRIALS:,} trials; give fewer values")
    if twice := next((t for t in texts if texts.count(t) > 1), None):
        raise ConfigError(f"{text}: {twice} is there twice; to repeat a trial with other seeds, give seeds=3")
    # numbers as numbers, so that dashboards can draw them as such; 1, 1.0 and true are equal in Python
    is_numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in plain)
    values = dict(zip(plain if is_numeric else texts, (f"{key}={t}" for t in texts), strict=True))
    if isinstance(value, RangeSweep) and all(isinstance(v, int) for v in plain) and not value.shuffle:
        first, last = min(map(int, values)), max(map(int, values))
        return Parameter(key, IntDistribution(first, last, step=int(abs(value.step))), values, condition)
    return Parameter(key, CategoricalDistribution(list(values)), values, condition)


def _interval(value: IntervalSweep) -> BaseDistribution:
    low, high, log = value.start, value.end, "log" in value.tags
    assert low is not None and high is not None
    if "int" in value.tags or (isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)
