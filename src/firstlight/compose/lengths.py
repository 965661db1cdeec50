"""A run has one length; the one that was given last counts.

A word of the command line comes after the files, and an experiment after conf/trainer/default.yaml.
"""

from collections.abc import Callable, Iterable
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from firstlight.compose.keys import value_at
from firstlight.compose.mistakes import mistaken
from firstlight.compose.yaml_files import Part

LENGTHS: tuple[str, ...] = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_tokens")


def replaced_by(given: Iterable[Override]) -> set[str]:
    """The lengths in whose place the command line gives another one.

    Raises:
        Mistaken: it gives two.
    """
    given = list(given)
    by_key: dict[str, Override] = {}
    for override in given:
        if override.key_or_group in LENGTHS and not override.is_delete():
            by_key[override.key_or_group] = override
    set_ones = [key for key, override in by_key.items() if override.value() is not None]
    if len(set_ones) > 1:
        words = [str(by_key[key].input_line) for key in set_ones]
        text = f"{' and '.join(words)}: a run has one length; leave all but one of them out"
        all_words = [str(override.input_line) for override in given]
        raise mistaken(dict.fromkeys(words, text), all_words)
    return _others(set_ones)


def replaced_in(parts: Iterable[Part]) -> set[str]:
    """The lengths in whose place a more special one of the chosen files, in order, gives another.

    None if the last file that gives a length gives two: the run refuses them.
    """
    last: list[str] = []
    for part in parts:
        prefix = f"{part.package}." if part.package else ""
        set_ones: list[str] = []
        for key in LENGTHS:
            # As it is written: null takes a length away.
            value = value_at(part.content, key.removeprefix(prefix))
            if key.startswith(prefix) and value is not None:
                set_ones.append(key)
        last = set_ones or last
    return _others(last)


def with_one_length(
    config: DictConfig, given: Iterable[Override], files: Callable[[], Iterable[Part]]
) -> None:
    """Set the lengths of `config` to null that others replace: of words, or else of `files`.

    `files` are the chosen ones, in order; they are read if there are several lengths.

    Raises:
        Mistaken: the words give two.
    """
    replaced = replaced_by(given)
    if len(_lengths_of(config)) > 1:
        for key in replaced or replaced_in(files()):
            if OmegaConf.select(config, key, throw_on_resolution_failure=False) is not None:
                OmegaConf.update(config, key, None)


def _others(set_ones: list[str]) -> set[str]:
    return set(LENGTHS) - set(set_ones) if len(set_ones) == 1 else set()


def _lengths_of(config: DictConfig) -> list[str]:
    section = config.get("trainer")
    if not isinstance(section, DictConfig):
        return []
    # Not resolved: a rule of model=dial is a length, too.
    plain: Any = OmegaConf.to_container(section, resolve=False)
    return [key for key in LENGTHS if plain.get(key.removeprefix("trainer.")) is not None]
