"""Explain in one line what Hydra refuses to compose: the key, what is wrong, what was meant."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from firstlight.compose.chosen import LIST_GROUPS, choices_with
from firstlight.compose.hydra_calls import composed, parse_overrides
from firstlight.compose.keys import is_within, keys_of, value_at
from firstlight.compose.mistakes import mistaken
from firstlight.compose.yaml_files import choices, is_base_name, title_of
from firstlight.errors import ConfigError, did_you_mean, one_line
from firstlight.overrides import key_of, words_to_paste
from firstlight.packages import with_extra

# Hydra's exceptions have no fields: the key stands in their messages.
REFUSED_KEY = re.compile(
    r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'"
)
"""Hydra's words for a key that it does not know."""
CHOSEN_TWICE = re.compile(r"(\w+)/(\w+) appears more than once")
"""Hydra's words for callbacks=[default,plots]: a group, and the choice that is there twice."""

EXTRA_OF = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
}
"""Choices that other packages have, and the extra that installs each."""
SLIP = 0.8
"""How alike (difflib) a misspelt name and the one that was meant are."""
MOST_NAMED = 3
"""Choices that are named one by one, each as it would be typed."""


@contextmanager
def explained(verb: str, overrides: list[str], config_dir: str | None = None) -> Iterator[None]:
    """Within the block, turn what Hydra refuses of `overrides` into a ConfigError of one line.

    It is a Mistaken where it is known which of them Hydra has refused.
    """
    try:
        yield
    except MissingConfigException as error:
        text = _missing_choice(error, config_dir)
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        raise _about(_choosing(group, choice, overrides), text, overrides, config_dir) from None
    except (HydraException, OmegaConfBaseException) as error:
        text = _explanation(verb, overrides, config_dir, error)
        key = _key_in(first_line(error))
        refused = [word for word in overrides if key_of(word).partition("@")[0] == key]
        raise _about(refused, text, overrides, config_dir) from None
    except YAMLError as error:
        raise ConfigError(f"this is not valid YAML: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(
            "this cannot be composed: a config that contains itself, or is nested too deeply"
        ) from None
    # Hydra raises them where it expects nothing bad: model=3, =3, a choice longer than file names.
    except (ValueError, OSError) as error:
        raise ConfigError(f"this cannot be composed: {one_line(error)}") from None


def _about(
    words: list[str], text: str, overrides: list[str], config_dir: str | None
) -> ConfigError:
    """The mistake `text`, which is that of the `words` among `overrides`, if any are known."""
    if not words:
        return ConfigError(text)
    error = mistaken(dict.fromkeys(words, text), overrides, config_dir)
    # callbacks=[default,nope]: the other choices of a list are judged, too.
    group, _, choice = text.partition(":")[0].partition("=")
    for override in parse_overrides(words):
        value = override.value()
        if isinstance(value, list) and override.key_or_group == group and choice in value:
            others = ",".join(name for name in value if name != choice)
            error.rest.append(f"{group}=[{others}]")
    return error


def _choosing(group: str, choice: str, overrides: list[str]) -> list[str]:
    """The overrides that choose `choice` of `group`."""
    words: list[str] = []
    for override in parse_overrides(overrides):
        value = override.value()
        chosen = value if isinstance(value, list) else [value]
        if override.key_or_group == group and choice in chosen:
            words.append(str(override.input_line))
    return words


def _key_in(message: str) -> str | None:
    """The key, or the group, that a message of Hydra's is about."""
    refused = REFUSED_KEY.search(message)
    if refused is not None:
        return re.split(r"[=@]", refused[1])[0]
    twice = CHOSEN_TWICE.search(message)
    return None if twice is None else twice[1]


def _missing_choice(error: MissingConfigException, config_dir: str | None) -> str:
    """Explain model=nanoo: the group has no such choice."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not group:  # a file of no group, that a defaults list names
        return f"{choice}: {first_line(error)}"
    # Of one choice in a list, callbacks=[default,nope], Hydra does not say what there is.
    options = [str(name) for name in error.options or () if not is_base_name(str(name))]
    options = options or choices(group, config_dir)
    extra = EXTRA_OF.get(f"{group}={choice}")
    needs = "" if extra is None else f"; it needs an extra: {with_extra(extra)}"
    return f"{no_such_choice(group, choice, options)}{needs}"


def no_such_choice(group: str, choice: str, options: list[str]) -> str:
    """Say that a group has only the choices `options`."""
    return (
        f"{group}={choice}: no such choice{did_you_mean(choice, options)} ({group} is one of:"
        f" {', '.join(options)})"
    )


def _explanation(verb: str, overrides: list[str], config_dir: str | None, error: Exception) -> str:
    """Explain any other error of Hydra's or OmegaConf's."""
    twice = CHOSEN_TWICE.search(first_line(error))
    if twice is not None:
        return (
            f"{twice[1]}: '{twice[2]}' is chosen twice; a choice may already contain it, as default"
            " does"
        )
    key = _key_in(first_line(error))
    if key is not None:
        return _refused_key(verb, key, overrides, config_dir, error)
    # Hydra's own message then says only which override it was about.
    if isinstance(error.__cause__, OmegaConfBaseException):
        return first_line(error.__cause__)
    return one_line(error)


def _refused_key(
    verb: str, key: str, overrides: list[str], config_dir: str | None, error: Exception
) -> str:
    """Explain a `key` that Hydra does not know, and suggest the one that was meant."""
    # Composed again with what was chosen: which keys there are depends on the choices.
    chosen = _choices_made(overrides, key, config_dir)
    config = _config_of(verb, chosen, config_dir)
    known = list(keys_of(config))
    if key in known:  # +seed=1: Hydra says itself that the key exists already
        return f"{key}: {one_line(error)}"
    typed_words = [word for word in overrides if word.lstrip("+~").startswith(f"{key}=")]
    # data.path=my.txt, decoding=greedy decoding.top_k=5, ~logger logger.csv=null
    owners = choices_with(key, config_dir)
    if owners:
        return f"{key}: {_of_another_choice(key, owners, chosen, typed_words, config_dir)}"
    typed_keys = [name for name in known if not name.endswith("_")]  # not _target_, _partial_
    section, _, last = key.rpartition(".")
    # lr=3e-4, for optimizer.lr
    by_last_name = {name.rpartition(".")[2]: name for name in typed_keys}
    owner = by_last_name.get(last)
    if owner is not None:
        return f"{key}: no such key; did you mean '{owner}'?"
    # A slip of a finger is answered at once; the arguments of classes are known only once torch is
    # imported.
    in_section = [name.rpartition(".")[2] for name in typed_keys if is_within(name, section)]
    if not get_close_matches(last, in_section, cutoff=SLIP):
        from firstlight.config import unlisted_arguments  # late: pydantic, and then torch

        unlisted = unlisted_arguments(_section_of(config, section))
        if last in unlisted:
            return f"{key}: {_way_to_unlisted(last, unlisted, typed_words)}"
        typed_keys += [f"+{section}.{name}" for name, instead in unlisted.items() if not instead]
    return (
        f"{key}: no such key{did_you_mean(key, typed_keys)} (firstlight {verb} --help all lists"
        " them)"
    )


def _way_to_unlisted(name: str, unlisted: dict[str, str | None], typed_words: list[str]) -> str:
    """Say how an argument is given that its class has and its YAML file does not list."""
    instead = unlisted[name]
    if instead is not None:
        return instead
    added = words_to_paste(*(f"+{word.lstrip('+~')}" for word in typed_words))
    return f"not listed in the config, but it can be added: {added}"


def _section_of(config: dict[str, Any], section: str) -> dict[str, Any]:
    """The section of a composed config with this dotted name; empty if it is none."""
    node = value_at(config, section)
    return node if isinstance(node, dict) else {}


def _of_another_choice(
    key: str, owners: list[str], chosen: list[str], typed_words: list[str], config_dir: str | None
) -> str:
    """Say which choices of its group have the `key` that what is chosen does not have."""
    group, _, _ = key.partition(".")
    missing = f"what is chosen of {group} has no such key"
    given = [word for word in chosen if word.startswith(f"{group}=")]
    if given:
        _, _, choice = given[-1].partition("=")
        title = title_of(group, choice, config_dir)
        missing = f"{given[-1]} has no such key{f' ({title})' if title else ''}"
    if group in LIST_GROUPS:
        names = ["default" if "default" in owners else f"default,{name}" for name in owners]
        ways = [f"{group}=[{name}]" for name in dict.fromkeys(names)]
    else:
        ways = [f"{group}={name}" for name in owners]
    if len(ways) > MOST_NAMED:
        return f"{missing}; {len(ways)} other choices of {group} have ({', '.join(owners)})"
    # As they are typed in a shell, with the value that was given.
    commands = [words_to_paste(way, *typed_words) for way in ways]
    return f"{missing}; choose what has: {' or '.join(commands)}"


def _choices_made(overrides: list[str], refused: str, config_dir: str | None) -> list[str]:
    """Those of `overrides` that decide which keys exist, without the one that Hydra `refused`."""
    made: list[str] = []
    for override in parse_overrides(overrides):
        key = override.key_or_group
        is_choice = key == "hydra.searchpath" or bool(choices(key, config_dir))
        if (is_choice or override.is_delete()) and key != refused:
            made.append(str(override.input_line))
    return made


def _config_of(verb: str, chosen: list[str], config_dir: str | None) -> dict[str, Any]:
    """The config whose keys may be overridden, composed with `chosen` if that is possible."""
    try:
        config = composed(verb, chosen, config_dir)
    except HydraException:  # they have a mistake of their own
        config = composed(verb, [], None)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return plain


def first_line(error: BaseException) -> str:
    """The first line of the message of `error`; its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
