"""`sweep.yaml`: what a sweep is, and what follows from it for its trials."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from firstlight.checkpoints.find import newest_folder
from firstlight.compose.compose import parse_overrides, slug
from firstlight.config import Seed, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.files import replace_text
from firstlight.interpolation import as_data
from firstlight.runs.later_keys import LATER_SECTIONS, THIS_VERSION, Earlier
from firstlight.runs.plain_yaml import dump_plain_yaml, read_plain_yaml
from firstlight.sweep.settings import Settings, directions_of
from firstlight.sweep.space import Space, overrides_of, space_of

SWEEP_FILE = "sweep.yaml"
OF_THE_SWEEP = ("sweep", "seeds", "output_dir", "resume")
"""Sections and keys that belong to the sweep, not to its trials."""
SWEEP_FORMAT = 1
"""Version of the format of `sweep.yaml` and of the rows of the ledger."""


@dataclass(frozen=True)
class Wanted:
    """What a sweep is made of; `own` are the overrides of its trials, ready for Hydra's grammar."""

    own: list[str]
    settings: Settings
    seeds: list[Seed]

    def space(self, config_dir: str | None, earlier: Earlier = THIS_VERSION) -> Space:
        """The space without its seeds, which only repeat its points, as an `earlier` version did.

        Raises:
            ConfigError: its values cannot be listed.
        """
        swept = tuple(f"{override.key_or_group}." for override in self._swept(config_dir))
        # Defaults first: what the sweep says itself wins over them. Those of a section that it
        # varies are not of all its points.
        defaults = [
            f"{key}={json.dumps(value)}"
            for key, value in earlier.defaults.items()
            if not key.startswith(swept)
        ]
        own = [*defaults, *self.own, *later_overrides(earlier.lacks)]
        return split_seeds(space_of(own, self.settings, config_dir))[0]

    def _swept(self, config_dir: str | None) -> list[Override]:
        """The overrides that have several values."""
        given = overrides_of(self.own, self.settings, config_dir).values()
        return [override for override in given if override.is_sweep_override()]

    def is_grid(self, config_dir: str | None) -> bool:
        """Whether its points are listed, not drawn."""
        return self.space(config_dir).is_grid(self.settings)


@dataclass(frozen=True)
class SweepRecord:
    """The content of `sweep.yaml`.

    `arguments` are those of the sweep's trials, ready for Hydra's grammar.
    """

    arguments: list[str]
    config_dir: str | None
    config: dict[str, Any]
    """The config of its first point as planned: if it changes, the message can say how."""
    settings: dict[str, Any]
    n_trials: int
    seeds: list[Seed]
    version: str
    storage: str | None = None
    digests: list[str] = field(default_factory=list)
    """Digests of the configs that were checked when it was planned, in the order of the points."""
    format: int = SWEEP_FORMAT
    working_folder: str | None = None
    """The folder that relative paths in `arguments` start from; None in the file of an earlier
    version."""

    @property
    def objectives(self) -> list[str]:
        return self.settings["objectives"]

    @property
    def earlier(self) -> Earlier:
        """How the version that planned the sweep differs from this one."""
        return Earlier.of(self.config)

    def write(self, folder: Path) -> None:
        replace_text(folder / SWEEP_FILE, dump_plain_yaml(vars(self)))


def sweep_named(name: str) -> Path:
    """The folder of the sweep that a user names; "last" is the newest below outputs/.

    Raises:
        ConfigError: it is "last", and there is none.
    """
    return newest_folder(SWEEP_FILE, "sweep") if name == "last" else user_path(name)


def read_sweep(folder: Path) -> SweepRecord:
    """What the sweep in `folder` is.

    Raises:
        ConfigError: it is not a sweep, or one of another version of firstlight.
    """
    file = folder / SWEEP_FILE
    try:
        content = read_plain_yaml(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ConfigError(
            f"{shorten(str(folder))}: not a sweep of firstlight ({SWEEP_FILE}: {reason})"
        ) from None
    version = content.get("version") if isinstance(content, dict) else None
    if version is None:
        raise ConfigError(f"{file}: the file of another program, not a sweep of firstlight")
    try:
        record = SweepRecord(**content)
    except TypeError:  # other keys
        record = None
    if record is None or record.format != SWEEP_FORMAT:
        raise ConfigError(
            f"{file}: written by firstlight {shorten(str(version))}; this version cannot resume it"
        )
    # The file may be somebody else's: types, objectives and arguments are checked before use.
    try:
        TypeAdapter(SweepRecord).validate_json(json.dumps(content), strict=True)
        directions_of(settings_of_record(record).objectives, record.config)
        _check_arguments(record)
    except ValidationError as error:
        raise ConfigError(f"{file}: damaged: {first_problem(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: damaged: {one_line(error)}") from None
    return record


def first_problem(error: ValidationError) -> str:
    """The first value that is not what firstlight writes, and what is wrong with it."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    return f"{shorten(key)}: {problem['msg']}"


def _check_arguments(record: SweepRecord) -> None:
    """Refuse arguments that firstlight writes into no record.

    Raises:
        ConfigError: one is Hydra's own, or one that the sweep decides for each trial.
    """
    for override in parse_overrides(record.arguments):
        section = re.split(r"[./]", override.key_or_group)[0]
        if section in ("hydra", *OF_THE_SWEEP):
            raise ConfigError(
                f"arguments: {shorten(str(override.input_line))} is not an argument of a trial"
            )


def settings_of_record(record: SweepRecord) -> Settings:
    """The section `sweep` as planned; its texts are data: references in them stay as they are."""
    return Settings(
        **check_config(OmegaConf.create({**as_data(record.settings)}), Settings, "sweep")
    )


def wanted_of(record: SweepRecord) -> Wanted:
    """What a sweep that was planned is made of."""
    return Wanted(record.arguments, settings_of_record(record), record.seeds)


def space_of_record(record: SweepRecord) -> Space:
    """The space of a sweep that was planned, without its seeds."""
    # Keys that this version added keep the values that the version of the sweep implied.
    return wanted_of(record).space(record.config_dir, record.earlier)


def later_overrides(later: dict[str, Any]) -> list[str]:
    """The overrides that make trials of today comparable with those of an earlier version."""
    overrides = []
    for key, value in later.items():
        # ++ sets a key whether or not the config of the trial has it.
        overrides.extend(LATER_SECTIONS.get(key, [f"++{key}={json.dumps(value)}"]))
    return overrides


def trial_overrides(record: SweepRecord, overrides: list[str], seed: int) -> list[str]:
    """All overrides of a trial, ready for Hydra's grammar; `overrides` are what distinguishes it.

    Raises:
        ConfigError: one of them is not a value of what the sweep varies: the ledger is somebody
            else's.
    """
    # The ledger may be somebody else's: an override could name any file or class.
    space = space_of_record(record)
    for text in overrides:
        if not any(parameter.has(text) for parameter in space.parameters):
            raise ConfigError(
                f"{shorten(text)}: in the ledger, but not a value that {SWEEP_FILE} lists"
            )
    return [*space.fixed, *overrides, f"seed={seed}"]


def split_seeds(space: Space) -> tuple[Space, list[int]]:
    """The space without `seed`, and the seeds listed there: they repeat each point.

    Raises:
        ConfigError: they are not whole numbers, or only in some trials.
    """
    others = []
    seeds: list[int] = []
    for parameter in space.parameters:
        if parameter.key != "seed":
            others.append(parameter)
            continue
        seeds = list(parameter.values or {})
        is_whole = all(isinstance(seed, int) for seed in seeds)
        if not seeds or not is_whole or parameter.condition is not None:
            raise ConfigError(
                "seed: list whole numbers (seed=1,2,3), or say how many there are (seeds=3)"
            )
    return Space(space.fixed, others), seeds


def folder_name(number: int, overrides: list[str], seed: int, seeds: list[int]) -> str:
    """The folder of a trial: its number, and what distinguishes it."""
    parts = [*overrides, f"seed={seed}"] if len(seeds) > 1 else overrides
    return f"{number}_{slug(','.join(parts))}".rstrip("_")
