"""From overrides to a composed config, with mistakes found before anything is written."""

import math
import re
from collections.abc import Iterator

from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig, OmegaConf

from firstlight.compose.explain import explained
from firstlight.compose.grammar import MOST_TRIALS, examples_of
from firstlight.compose.hydra_calls import choices, composed, parse_overrides
from firstlight.errors import ConfigError
from firstlight.interpolation import as_typed


def compose_config(
    verb: str, overrides: list[str], config_dir: str | None = None, *, with_hydra: bool = False
) -> DictConfig:
    """Compose `conf/<verb>.yaml` with `overrides`; `with_hydra` keeps Hydra's own section.

    Raises:
        ConfigError: one line that names the override, what is wrong and what may have been meant.
    """
    with explained(verb, overrides, config_dir):
        return composed(verb, overrides, config_dir, with_hydra=with_hydra)


def check_single_values(overrides: list[str]) -> None:
    """Refuse what Hydra's grammar refuses, and keys with several values.

    Raises:
        ConfigError: the first mistake.
    """
    for text, override in zip(overrides, parse_overrides(overrides), strict=True):
        if override.is_sweep_override():
            raise ConfigError(
                f"{text}: several values make a sweep; add -m, or quote the value ('key=\"a,b\"')"
            )


def check_trials(verb: str, overrides: list[str], config_dir: str | None) -> None:
    """Compose every value of a sweep: it makes its folder before it composes its trials.

    Raises:
        ConfigError: the first mistake.
    """
    for trial in list(_trials(overrides)):
        compose_config(verb, trial, config_dir)


def _trials(overrides: list[str]) -> Iterator[list[str]]:
    """Overrides in which each value is there once, the other keys at their first."""
    values_by_key: list[list[str]] = []
    swept: list[str] = []
    for text, override in zip(overrides, parse_overrides(overrides), strict=True):
        if override.is_sweep_override():
            swept.append(override.get_key_element())
            values_by_key.append(examples_of(override))
        else:
            values_by_key.append([text])
    if math.prod(map(len, values_by_key)) > MOST_TRIALS:
        raise ConfigError(
            f"a sweep has at most {MOST_TRIALS:,} jobs; give fewer values to {', '.join(swept)}"
        )
    first = [values[0] for values in values_by_key]
    yield first
    for position, values in enumerate(values_by_key):
        for value in values[1:]:
            yield [*first[:position], value, *first[position + 1 :]]


def listed(text: str, config_dir: str | None) -> str:
    """`text`, with the options of a group that a glob(...) fits in its place.

    Raises:
        ConfigError: it fits none.
    """
    if not re.match(r"[^=]*=\s*(tag\(.*)?glob\(", text):
        return text
    [override] = parse_overrides([text])
    glob = override.value()
    if not isinstance(glob, Glob):
        return text
    group = override.key_or_group
    options = choices(group, config_dir)
    if not options:
        raise ConfigError(f"{text}: fits no option as {group} is not a group")
    names = glob.filter(options)
    if not names:
        raise ConfigError(f"{text}: fits no option of {group} ({', '.join(options)})")
    return f"{override.get_key_element()}={','.join(names)}"


def to_yaml(config: DictConfig, package: str | None = None, *, resolve: bool = False) -> str:
    """What `--cfg job` prints of a composed config: all of it, or the section that `package` names.

    Raises:
        ConfigError: there is no such section.
    """
    if package in (None, "_global_"):
        node, header = config, ""
    else:
        node, header = OmegaConf.select(config, package), f"# @package {package}\n"
    if node is None:
        raise ConfigError(f"--package {package}: there is no such section")
    if not OmegaConf.is_config(node):
        return f"{as_typed(str(node))}\n"
    if resolve:
        OmegaConf.resolve(node)
    return as_typed(header + OmegaConf.to_yaml(node))


def slug(text: str) -> str:
    """A folder name from the overrides of a sweep's job: lr=1e-3,seed=1 is lr-1e-3_seed-1."""
    name = re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"))
    return name.encode()[:120].decode(errors="ignore")  # a file system counts bytes
