"""How a sweep that was planned grows: by values of the keys it sweeps over, seeds, drawn points.

All else decides what its trials are, and stays as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString, Transformer

from firstlight.compose.compose import parse_overrides
from firstlight.compose.grammar import values_of
from firstlight.errors import ConfigError, shorten, shown
from firstlight.sweep.record import Wanted
from firstlight.sweep.settings import Settings, number_of, seeds_from
from firstlight.sweep.space import name_of, overrides_of, parameter_of

MAY_GROW = ("params", "trials")
"""Settings of a sweep that may grow; `params` are keys and values like those of its trials."""


class DifferentError(ConfigError):
    """Two commands do not ask for the same sweep; the message is a phrase that says in what."""


def same_or_more(was: Wanted, now: Wanted, config_dir: str | None) -> Wanted:
    """The sweep `was` with what a whole command, which asks for `now`, has in addition.

    Of a key, the seeds or the points to draw it may also ask for less: it may have begun a sweep
    that has grown since.

    Raises:
        DifferentError: it asks for another sweep.
    """
    before = overrides_of(was.own, was.settings, config_dir)
    after = overrides_of(now.own, now.settings, config_dir)
    _check_same(before, after)
    for key, value in vars(was.settings).items():
        other = getattr(now.settings, key)
        if key not in (*MAY_GROW, "storage") and value != other:
            raise DifferentError(f"sweep.{key} was {shown(value)}, is {shown(other)}")
    if not set(was.seeds) <= set(now.seeds) and not set(now.seeds) <= set(was.seeds):
        raise DifferentError(f"the seeds were {shown(was.seeds)}, are {shown(now.seeds)}")
    grown, is_grid = was, was.is_grid(config_dir)
    for name, override in before.items():
        if override.is_sweep_override() and name != "seed":
            grown = _with_values(grown, override, after[name], is_grid=is_grid, whole=True)
    grown = _with_seeds(grown, now.seeds, config_dir)
    return grown if is_grid else _with_trials(grown, now.settings.trials)


def with_words(was: Wanted, words: Iterable[str], config_dir: str | None) -> Wanted:
    """The sweep `was` with what `words` add to it, which are ready for Hydra's grammar.

    Raises:
        ConfigError: one of them names something else than values, seeds or drawn points.
    """
    before = overrides_of(was.own, was.settings, config_dir)
    swept = [name for name, override in before.items() if override.is_sweep_override()]
    grown, is_grid = was, was.is_grid(config_dir)
    for override in parse_overrides(list(words)):
        name = name_of(override)
        if name == "seeds":
            n_seeds = number_of("seeds", override.value())
            grown = _with_seeds(grown, seeds_from(was.seeds[0], n_seeds), config_dir)
        elif name == "seed":
            grown = _with_seeds(grown, _seeds_of(override), config_dir)
        elif name == "sweep.trials":
            trials = number_of("sweep.trials", override.value())
            if is_grid:
                raise ConfigError(
                    "sweep.trials: the points of this sweep are listed, not drawn; add values to"
                    f" {', '.join(swept) or 'seed'}"
                )
            grown = _with_trials(grown, trials)
        elif name in swept and not override.is_delete():
            grown = _with_values(grown, before[name], override, is_grid=is_grid, whole=False)
        else:
            raise ConfigError(
                f"{shorten(str(override.input_line))}: cannot be added: this sweep grows by values"
                f" of {', '.join(swept) or 'seed'}, by seeds and sweep.trials; begin another sweep"
            )
        before = overrides_of(grown.own, grown.settings, config_dir)
    return grown


def _check_same(before: Mapping[str, Override], after: Mapping[str, Override]) -> None:
    """Refuse overrides that differ in more than the values of a key that both sweep over."""
    gone: list[str] = []
    new: list[str] = []
    for name in {**before, **after}:
        old, other = before.get(name), after.get(name)
        if old is not None and other is not None:
            is_swept = old.is_sweep_override() and other.is_sweep_override()
            if is_swept or old.input_line == other.input_line:
                continue
        if name != "seed":  # `Wanted.seeds` has them
            gone += [str(old.input_line)] if old is not None else []
            new += [str(other.input_line)] if other is not None else []
    if gone or new:
        raise _changed_words(" ".join(gone), " ".join(new))


def _changed_words(gone: str, new: str) -> DifferentError:
    return DifferentError(f"{shorten(gone) or 'nothing'} is now {shorten(new) or 'nothing'}")


def _with_values(
    was: Wanted, old: Override, new: Override, *, is_grid: bool, whole: bool
) -> Wanted:
    """A sweep with the values of `new` added to those of `old`, its override of the same key.

    A `whole` command has all the values, or those that there were at first.
    """
    parameter = parameter_of(old, was.settings.seed)
    if new.is_sweep_override() and parameter_of(new, was.settings.seed) == parameter:
        return was
    if parameter.values is None or not is_grid:
        if whole:
            raise _changed_words(str(old.input_line), str(new.input_line))
        raise ConfigError(
            f"{shorten(str(new.input_line))}: cannot be added: the points of this sweep are drawn;"
            " more of them are sweep.trials=N"
        )
    texts = [_value(override) for override in parameter.values.values()]
    given = _values_given(new, old, was.settings)
    if whole and not set(texts) <= set(given):
        # What the command lacks may be somebody else's: it is not to look up the environment.
        is_foreign = any("$" in text for text in texts if text not in given)
        if is_foreign or not set(given) <= set(texts):
            raise _changed_words(str(old.input_line), str(new.input_line))
    added = [text for text in given if text not in texts]
    return _replaced(was, old, [*texts, *added]) if added else was


def _values_given(new: Override, old: Override, settings: Settings) -> list[str]:
    """The values of an override, one or several; those that `old` has as they are written there.

    Raises:
        ConfigError: they are of another kind.
    """
    known = {_meaning(value): _value(text) for text, value in values_of(old, settings.seed).items()}
    numbers_only = not any(isinstance(value, str) for value in known)
    texts = []
    for text, value in _values_of(new, settings.seed).items():
        meaning = _meaning(value)
        if numbers_only and isinstance(meaning, str):
            raise ConfigError(
                f"{shorten(text)}: cannot be added: the values of this sweep are numbers (begin"
                " another sweep)"
            )
        texts.append(known.get(meaning, _value(text)))
    return texts


def _values_of(override: Override, seed: int = 0) -> dict[str, Any]:
    """The values of an override, one or several, each under an override `key=value`."""
    if override.is_sweep_override():
        return values_of(override, seed)
    return {str(override.input_line): override.value()}


def _meaning(value: Any) -> float | str:
    """The same for values that are the same: 1e-3 and 0.001, a and 'a'."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value.text if isinstance(value, QuotedString) else Transformer.str(value)


def _value(override: str) -> str:
    return override.partition("=")[2]


def _seeds_of(override: Override) -> list[int]:
    return [number_of("seed", value) for value in _values_of(override).values()]


def _with_seeds(was: Wanted, seeds: Iterable[int], config_dir: str | None) -> Wanted:
    grown = [*was.seeds, *(seed for seed in seeds if seed not in was.seeds)]
    if grown == was.seeds:
        return was
    old = overrides_of(was.own, was.settings, config_dir).get("seed")
    if old is not None and old.is_sweep_override():
        was = _replaced(was, old, [str(seed) for seed in grown])
    return replace(was, seeds=grown)


def _with_trials(was: Wanted, trials: int) -> Wanted:
    if trials <= was.settings.trials:
        return was
    return replace(was, settings=replace(was.settings, trials=trials))


def _replaced(was: Wanted, old: Override, values: list[str]) -> Wanted:
    """A sweep with `values` in the place of those of its override `old`."""
    key, joined = old.get_key_element(), ",".join(values)
    own = [f"{key}={joined}" if word == old.input_line else word for word in was.own]
    if own != was.own:
        return replace(was, own=own)
    params = {name: joined if name == key else value for name, value in was.settings.params.items()}
    return replace(was, settings=replace(was.settings, params=params))
