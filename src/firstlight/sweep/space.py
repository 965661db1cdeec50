"""What the trials of a sweep differ in: keys of the config, and the values each may have."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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

from firstlight.compose.compose import parse_overrides
from firstlight.errors import ConfigError, one_line
from firstlight.overrides import ready
from firstlight.sweep.settings import MOST_TRIALS, Settings, conditional_keys

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
"""As `Parameter.override` writes what was drawn from an interval."""
TAGS = {"log", "int"}
"""What an interval may be called: to be drawn from on a logarithmic scale, as whole numbers."""


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

    def has(self, text: str) -> bool:
        """Is `text` an override of this parameter, with one of its values?"""
        if self.values is not None:
            return text in self.values.values()
        key, _, value = text.partition("=")
        if key != self.key or _NUMBER.fullmatch(value) is None:
            return False
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        low, high = (self.override(end).partition("=")[2] for end in (self.distribution.low, self.distribution.high))
        is_whole = isinstance(self.distribution, FloatDistribution) or value.removeprefix("-").isdecimal()
        return is_whole and float(low) <= float(value) <= float(high)

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


def space_of(overrides: list[str], settings: Settings, config_dir: str | None = None) -> Space:
    """The space of `sweep.params` and the overrides of a command line, which come before those of the same key.

    Raises:
        ConfigError: values that cannot be listed, or a condition on what is not swept over.
    """
    given = {_key(override) for override in parse_overrides(overrides)}
    typed = [f"{key}={_text(value)}" for key, value in settings.params.items()]
    params = [ready(word, config_dir, multirun=True) for word in typed]
    own = [text for text, o in zip(params, parse_overrides(params), strict=True) if _key(o) not in given]
    texts = [*own, *overrides]
    parsed = {_key(o): (text, o) for text, o in zip(texts, parse_overrides(texts), strict=True)}  # the last counts
    swept = [parameter_of(text, override) for text, override in parsed.values() if override.is_sweep_override()]
    fixed = [(text, override) for text, override in parsed.values() if not override.is_sweep_override()]
    conditions = dict(_condition(rule, swept, fixed, config_dir) for rule in settings.only_if)
    parameters = [replace(parameter, condition=conditions.get(parameter.key)) for parameter in swept]
    return Space([text for text, _ in fixed], parameters)


def _key(override: Override) -> str:
    """What an override is about, whether it adds, changes or takes away."""
    return f"{override.key_or_group}@{override.package}" if override.package else override.key_or_group


def _condition(
    rule: str, swept: list[Parameter], fixed: list[tuple[str, Override]], config_dir: str | None
) -> tuple[str, str]:
    """The key of a rule, and its condition as the overrides of a trial have it.

    Raises:
        ConfigError: there is no such key, or it can never hold.
    """
    [key], keys = conditional_keys([rule]), [p.key for p in swept]
    condition = ready(rule.partition(" if ")[2].strip(), config_dir)
    if "=" not in condition:
        raise ConfigError(f"sweep.only_if ({rule}): write 'KEY if OTHER=VALUE'")
    if key not in keys:
        raise ConfigError(f"sweep.only_if ({rule}): {key} is not swept over")
    [wanted] = parse_overrides([condition])
    on = wanted.get_key_element()
    if on in keys and keys.index(on) > keys.index(key):
        raise ConfigError(f"sweep.only_if ({rule}): {on} must be given before {key}, which depends on it")
    given = [override for _, override in fixed if override.get_key_element() == on]
    if on not in keys and not given:
        raise ConfigError(f"sweep.only_if ({rule}): {on} is neither swept over nor given")
    if given:  # as where a sweep with a name is narrowed: it holds for all trials, or for none
        texts = [text for text, override in fixed if override in given]
        return key, texts[0] if given[0].value() == wanted.value() else condition
    texts = list((swept[keys.index(on)].values or {}).values())
    found = next((t for t in texts if parse_overrides([t])[0].value() == wanted.value()), None)
    if found is None:
        raise ConfigError(f"sweep.only_if ({rule}): it never holds (there is {', '.join(texts) or 'an interval'})")
    return key, found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parameter_of(text: str, override: Override) -> Parameter:
    """What an override with several values sweeps over.

    Raises:
        ConfigError: its values cannot be listed, or drawn from.
    """
    key, value = override.get_key_element(), override.value()
    try:
        if isinstance(value, IntervalSweep):
            if unknown := value.tags - TAGS:
                raise ConfigError(f"{text}: there is no tag {min(unknown)}; give log or int")
            return Parameter(key, _interval(value), None)
        texts = list(islice(override.sweep_string_iterator(), MOST_TRIALS + 1))
        plain: list[Any] = list(islice(override.sweep_iterator(Transformer.identity), MOST_TRIALS + 1))
    except (HydraException, ValueError, AttributeError) as error:  # range(1, 5, 0), interval(2, 1)
        raise ConfigError(f"{text}: these are no values to sweep over: list them ({one_line(error)})") from None
    if not texts:
        raise ConfigError(f"{text}: there is no value in it")
    if len(texts) > MOST_TRIALS:
        raise ConfigError(f"{key}: a sweep has at most {MOST_TRIALS:,} trials; give fewer values")
    if twice := next((t for t in texts if texts.count(t) > 1), None):
        raise ConfigError(f"{text}: {twice} is there twice; to repeat a trial with other seeds, give seeds=3")
    # numbers as numbers, so that dashboards can draw them as such; 1, 1.0 and true are equal in Python
    is_numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in plain)
    values = dict(zip(plain if is_numeric else texts, (f"{key}={t}" for t in texts), strict=True))
    if isinstance(value, RangeSweep) and all(isinstance(v, int) for v in plain) and not value.shuffle:
        first, last = min(map(int, values)), max(map(int, values))
        return Parameter(key, IntDistribution(first, last, step=int(abs(value.step))), values)
    return Parameter(key, CategoricalDistribution(list(values)), values)


def _interval(value: IntervalSweep) -> BaseDistribution:
    low, high, log = value.start, value.end, "log" in value.tags
    assert low is not None and high is not None
    if "int" in value.tags or (isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)
