"""Calls of Hydra's public functions: parse overrides, compose a config, apply Hydra's settings."""

import copy
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import configure_log, env_override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from firstlight.compose.mistakes import mistaken
from firstlight.compose.yaml_files import is_base_name, names_in
from firstlight.conf_files import conf_dir
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.interpolation import quoted
from firstlight.overrides import MOST_PARTS, is_quoted

LONGEST_KEY = 200
"""Bytes of a key: Hydra looks for a folder of that name, and file systems allow 255."""


def composed(
    verb: str, overrides: list[str], config_dir: str | None, *, with_hydra: bool = False
) -> DictConfig:
    """Compose `conf/<verb>.yaml` with `overrides`; `with_hydra` keeps the section `hydra`.

    Raises:
        HydraException, OmegaConfBaseException: it cannot be composed; see `explained`.
    """
    words = list(overrides)
    if config_dir is not None:
        words.append(f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]")
    # Hydra has one global object. A sweep is run by Hydra itself and needs its own back.
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(conf_dir(), job_name="cli", version_base="1.3"):
            return compose(verb, words, return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def settings_of_hydra(config: DictConfig, *, with_logging: bool = True) -> Iterator[DictConfig]:
    """Within the block, apply the section `hydra` of a composed config, as `hydra.main` does.

    It sets logging, `job.env_set`, and what `${hydra:...}` refers to. Yields the config without
    this section. Without `with_logging` Python's logging stays as it is: Hydra would close the
    handlers that there are.
    """
    # The config of a resumed run has none: log as job_logging=stdout does with conf/_hydra.yaml.
    if "hydra" not in config:
        if with_logging:
            logging.basicConfig(
                level=logging.WARNING, stream=sys.stdout, format="%(message)s", force=True
            )
        yield config
        return
    config.hydra.runtime.output_dir = str(Path.cwd())
    outer = HydraConfig.instance().cfg  # of a program of the user's that Hydra runs
    HydraConfig.instance().set_config(config)
    if with_logging:
        configure_log(config.hydra.job_logging, config.hydra.verbose)
    own = copy.deepcopy(config)
    with open_dict(own):
        del own["hydra"]
    try:
        with env_override(config.hydra.job.env_set):
            yield own
    finally:
        HydraConfig.instance().cfg = outer


@contextmanager
def command_line(words: list[str]) -> Iterator[None]:
    """Within the block, `words` are the command line that `hydra.main` reads.

    Raises:
        ConfigError: Hydra refuses it, for example a launcher that is not installed.
    """
    before, sys.argv = sys.argv, words
    # Hydra then raises its errors, and does not print them and exit.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except HydraException as error:
        raise ConfigError(one_line(error)) from None
    finally:
        sys.argv = before


def parse_overrides(overrides: list[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar.

    Raises:
        Mistaken: the grammar refuses some.
    """
    parser = OverridesParser.create()
    parsed: list[Override] = []
    problems: dict[str, str] = {}
    for text in overrides:
        try:
            override = _parsed(parser, text)
            _check_key(override, text)
            parsed.append(override)
        except ConfigError as error:
            problems[text] = str(error)
    if problems:
        raise mistaken(problems, overrides)
    return parsed


def is_about_hydra(word: str) -> bool:
    """Whether an override is one of Hydra's own settings."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/"))


def _parsed(parser: OverridesParser, text: str) -> Override:
    _, _, value = text.partition("=")
    # The parser's time grows with the square of their number; a quoted text is one part.
    if sum(map(text.count, "[]{}(), ")) > MOST_PARTS and not is_quoted(value):
        raise ConfigError(
            f"{shorten(text)}: too long: more than {MOST_PARTS} brackets, commas and spaces"
        )
    try:
        override = parser.parse_override(text)
        if not override.is_sweep_override():
            # References (${...}) have a grammar of their own, OmegaConf's.
            OmegaConf.create([override.value()])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        words = str(error).splitlines()[0]
        reason = words.removeprefix(f"Error parsing override '{text}'").strip() or "not valid"
        raise ConfigError(
            f"{shorten(text)}: {reason} (Hydra's grammar; quote what is text)"
        ) from None
    except RecursionError:
        raise ConfigError(f"{shorten(text)}: too many brackets inside each other") from None
    return override


def _check_key(override: Override, text: str) -> None:
    """Refuse keys and choices of groups about which Hydra's own errors are misleading.

    Raises:
        ConfigError: see above.
    """
    key = override.key_or_group
    if not key:
        raise ConfigError(f"{text}: write key=value")
    if len(key.encode()) > LONGEST_KEY:
        raise ConfigError(f"{shorten(key)}: no such key")
    if override.is_delete() or override.is_sweep_override():
        return
    known = names_in(key, None)
    options = [name for name in known if not is_base_name(name)]
    if not options:
        return
    value = override.value()
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or (name in known and is_base_name(name)):
            raise ConfigError(
                f"{text}: {key} is a group: give the name of a choice ({', '.join(options)})"
            )
