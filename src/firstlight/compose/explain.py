"""What Hydra refuses to compose, in one line that names the key, what is wrong and what may have
been meant.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from firstlight.compose.hydra_calls import choices, composed, parse_overrides
from firstlight.errors import ConfigError, did_you_mean, one_line

REFUSED_KEY = re.compile(
    r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'"
)
CHOSEN_TWICE = re.compile(r"(\w+)/(\w+) appears more than once")


@contextmanager
def explained(verb: str, overrides: list[str], config_dir: str | None = None) -> Iterator[None]:
    """Within the block, what Hydra refuses to compose of `overrides` is a ConfigError of one
    line."""
    try:
        yield
    except MissingConfigException as error:
        raise ConfigError(_missing_choice(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explanation(verb, overrides, config_dir, error)) from None
    except YAMLError as error:
        raise ConfigError(f"this is not YAML that can be read: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(
            "this cannot be composed: a config that contains itself, or is nested too deeply"
        ) from None
    except ValueError as error:  # Hydra's own, of what it does not expect: model=3, =3
        raise ConfigError(f"this cannot be composed: {one_line(error)}") from None


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"{choice}: {first_line(error)}"
    options = [str(option) for option in error.options or () if option != "base"] or choices(group)
    return (
        f"{group}={choice}: no such choice{did_you_mean(choice, options)} ({group} is one of:"
        f" {', '.join(options)})"
    )


def _explanation(verb: str, overrides: list[str], config_dir: str | None, error: Exception) -> str:
    twice = CHOSEN_TWICE.search(first_line(error))
    if twice is not None:
        return (
            f"{twice[1]}: '{twice[2]}' is chosen twice; a choice may already contain it, as default"
            " does"
        )
    refused = REFUSED_KEY.search(first_line(error))
    if refused is not None:
        key = re.split(r"[=@]", refused[1])[0]
        return _refused_key(verb, key, overrides, config_dir, error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        return first_line(error.__cause__)
    return one_line(error)


def _refused_key(
    verb: str, key: str, overrides: list[str], config_dir: str | None, error: Exception
) -> str:
    chosen = _choices_made(overrides, key, config_dir)
    known = _known_keys(verb, chosen, config_dir)
    if key in known:
        return f"{key}: {one_line(error)}"
    if (chosen or config_dir is not None) and key in _known_keys(verb, [], None):
        # decoding=greedy decoding.top_k=5, ~logger logger.csv=null
        group, _, _ = key.partition(".")
        return (
            f"{key}: the {group} that is chosen here has no such key; another choice of {group} has"
        )
    typed_keys = [name for name in known if not name.endswith("_")]  # not _target_, _partial_
    by_last_name = {name.rpartition(".")[2]: name for name in typed_keys}
    owner = by_last_name.get(key.rpartition(".")[2])  # lr=3e-4, for optimizer.lr
    if owner is not None:
        return f"{key}: there is no such key; did you mean '{owner}'?"
    return (
        f"{key}: there is no such key{did_you_mean(key, typed_keys)} (firstlight {verb} --help"
        " lists them all)"
    )


def _choices_made(overrides: list[str], refused: str, config_dir: str | None) -> list[str]:
    """Those of `overrides` that decide which keys there are, without the one that Hydra has
    `refused`.
    """
    made: list[str] = []
    for override in parse_overrides(overrides):
        key = override.key_or_group
        decides = (
            override.is_delete() or key == "hydra.searchpath" or bool(choices(key, config_dir))
        )
        if decides and key != refused:
            made.append(str(override.input_line))
    return made


def _known_keys(verb: str, chosen: list[str], config_dir: str | None) -> list[str]:
    """What may be overridden where `chosen` are; where those cannot be composed themselves, by
    default.
    """
    try:
        config = composed(verb, chosen, config_dir)
    except HydraException:
        config = composed(verb, [], None)
    return list(keys_of(OmegaConf.to_container(config, resolve=False)))


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """The dotted keys of a config, those of sections included."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{path}{key}"
            yield from keys_of(child, f"{path}{key}.")


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, or its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
