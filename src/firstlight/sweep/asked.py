"""What the words of a command ask for: the folder of a sweep, and what it is made of."""

import re
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from firstlight.compose.compose import compose_config, listed, parse_overrides
from firstlight.compose.grammar import examples_of
from firstlight.config import check_config, take
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, one_line, shorten, shown
from firstlight.sweep.record import OF_THE_SWEEP, Wanted, split_seeds
from firstlight.sweep.settings import Settings, number_of, only_in_some, seeds_from
from firstlight.sweep.space import space_of
from firstlight.sweep.storage import hide_password


@dataclass(frozen=True)
class Asked:
    """A sweep as a command asks for it.

    `folder` is its output_dir, `is_fixed` if the command names it. `storage` is as it was typed.
    `has_values`: there are values of a key, or several seeds, to make trials of.
    """

    wanted: Wanted
    has_values: bool
    folder: Path
    is_fixed: bool
    storage: str | None
    config_dir: str | None


def asked(overrides: list[str], config_dir: str | None) -> Asked:
    """What `overrides`, ready for Hydra's grammar, ask for.

    Raises:
        ConfigError: they are not valid.
    """
    # What is the sweep's own (seeds, folder, sampler), and what its trials get.
    given = parse_overrides(overrides)
    by_key: dict[str, Override] = {}
    own: list[str] = []
    for override in given:
        by_key[override.key_or_group] = override
        if _section(override.key_or_group) not in OF_THE_SWEEP:
            own.append(str(override.input_line))
    _check_words(by_key)
    example = _first(given, only_in_some(overrides, config_dir), config_dir)
    settings, n_seeds = _settings(example, config_dir)
    if n_seeds > 1 and "seed" in by_key and by_key["seed"].is_sweep_override():
        raise ConfigError("seeds: the seeds are listed already (seed=...); give one of the two")
    space = space_of(own, settings, config_dir)
    folder, seed = take(example, "output_dir"), number_of("seed", take(example, "seed"))
    seeds = split_seeds(space)[1] or seeds_from(seed, n_seeds)
    return Asked(
        Wanted(own, settings, seeds),
        has_values=bool(space.parameters) or n_seeds > 1,
        folder=user_path(str(folder)),
        is_fixed="output_dir" in by_key,
        storage=_storage_as_typed(by_key.get("sweep.storage"), settings),
        config_dir=config_dir,
    )


def _section(key: str) -> str:
    """The first part of a dotted key."""
    return key.partition(".")[0]


def _check_words(given: dict[str, Override]) -> None:
    """Refuse overrides that a sweep cannot have."""
    if "resume" in given and given["resume"].value() is not None:
        raise ConfigError(
            "resume: resumes one run, without -m; to resume a sweep: firstlight sweep resume DIR"
        )
    for key, override in given.items():
        if _section(key) in OF_THE_SWEEP and override.is_sweep_override():
            raise ConfigError(f"{key}: cannot be swept over")


def _first(
    overrides: list[Override], only_in_some: list[str], config_dir: str | None
) -> DictConfig:
    """The config of the first trial, with the section `sweep`.

    Keys that are `only_in_some` trials are left out.
    """
    words = []
    for override in overrides:
        if override.key_or_group in only_in_some:
            continue
        is_swept = override.is_sweep_override()
        words.append(examples_of(override)[0] if is_swept else str(override.input_line))
    return compose_config("train", words, config_dir)


def _settings(config: DictConfig, config_dir: str | None) -> tuple[Settings, int]:
    """The section of the sweep, and the number of its seeds."""
    section = take(config, "sweep")
    if not isinstance(section, DictConfig):
        raise ConfigError(f"sweep: expected a section, got {shown(section)}")
    values = check_config(section, Settings, "sweep")
    n_seeds = number_of("seeds", take(config, "seeds"))
    for key, value in values["params"].items():
        # Hydra's parser does not know the options of a group: a glob is listed first.
        if "glob" in str(value):
            values["params"][key] = listed(f"{key}={value}", config_dir).partition("=")[2]
    return Settings(**values), n_seeds


def _storage_as_typed(given: Override | None, settings: Settings) -> str | None:
    """The storage with its references to the environment.

    Raises:
        ConfigError: it is not the address of a database, or has a password that would be kept in
            the folder.
    """
    if settings.storage is None:
        return None
    hide_password(settings.storage)
    # The text as typed: a password that was looked up must not be written into sweep.yaml.
    text = settings.storage if given is None else str(given.value())
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(f"sweep.storage ({shorten(text)}): {one_line(error)}") from None
    secrets = [url.password or ""]
    for key, value in url.query.items():
        if "pass" in key:
            secrets.append(str(value))
    for secret in secrets:
        if secret and re.fullmatch(r"\$\{oc\.env:[^{}]+\}", secret) is None:
            raise ConfigError(
                "sweep.storage: the password would be kept in the sweep's folder: give"
                " ${oc.env:NAME}"
            )
    return text
