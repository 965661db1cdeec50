"""`sweep.yaml`: what a sweep is, and what that makes of its trials."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from firstlight.compose.compose import parse_overrides, slug
from firstlight.config import Seed, check_config
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.files import replace_text
from firstlight.interpolation import as_data
from firstlight.runs.later_keys import LATER_SECTIONS, METRICS, lacking
from firstlight.runs.plain_yaml import dump_plain_yaml, read_plain_yaml
from firstlight.sweep.settings import Settings, directions_of
from firstlight.sweep.space import Space, space_of

RECORD = "sweep.yaml"
OF_THE_SWEEP = ("sweep", "seeds", "output_dir", "resume")
"""Sections and keys of a command line that its trials do not get."""
FORMAT = 1
"""Of the record, and of what a row of the ledger holds."""


@dataclass(frozen=True)
class Record:
    """`sweep.yaml`: what the sweep is. `arguments` are those of its trials, ready for Hydra's grammar."""

    arguments: list[str]
    config_dir: str | None
    config: dict[str, Any]
    """A config of its trials as it was planned, to say what has changed if it is another one later."""
    settings: dict[str, Any]
    n_trials: int
    seeds: list[Seed]
    version: str
    storage: str | None = None
    digests: list[str] = field(default_factory=list)
    """Of the configs of the points that were checked at planning, in their order."""
    format: int = FORMAT
    working_folder: str | None = None
    """The folder that relative paths in `arguments` are from; None: not known (of an earlier version)."""

    @property
    def later(self) -> dict[str, Any]:
        """The keys that came later than the version that planned it, with what that version did."""
        return lacking(self.config)

    def write(self, folder: Path) -> None:
        replace_text(folder / RECORD, dump_plain_yaml(vars(self)))


def read_record(folder: Path) -> Record:
    """What the sweep in `folder` is.

    Raises:
        ConfigError: it is no sweep, or one of another version of firstlight.
    """
    try:
        content = read_plain_yaml(folder / RECORD)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ConfigError(f"{shorten(str(folder))}: no sweep of firstlight's ({RECORD}: {reason})") from None
    try:
        record = Record(**content)
    except TypeError:
        record = None
    version = content.get("version") if isinstance(content, dict) else None
    if version is None:
        raise ConfigError(f"{folder / RECORD}: the file of another program: it is no sweep of firstlight's")
    if record is None or record.format != FORMAT:
        raise ConfigError(
            f"{folder / RECORD}: written by firstlight {shorten(str(version))}; this version cannot resume it"
        )
    try:
        TypeAdapter(Record).validate_json(json.dumps(content), strict=True)
        directions_of(settings_of_record(record).objectives, record.config)
        _check_arguments(record)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{folder / RECORD}: damaged: {shorten(key)}: {problem['msg']}") from None
    except ConfigError as error:
        raise ConfigError(f"{folder / RECORD}: damaged: {one_line(error)}") from None
    return record


def _check_arguments(record: Record) -> None:
    """Refuse arguments that no sweep has: a file that says them is not firstlight's.

    Raises:
        ConfigError: one is Hydra's own, or one that the sweep decides for each trial.
    """
    for text, override in zip(record.arguments, parse_overrides(record.arguments), strict=True):
        section = override.key_or_group.split(".")[0].split("/")[0]
        if section in ("hydra", *OF_THE_SWEEP):
            raise ConfigError(f"arguments: {shorten(text)} is not an argument of a trial")


def space_of_record(record: Record) -> Space:
    """The space of a sweep that was planned, without its seeds."""
    own = [*record.arguments, *later_overrides(record.later)]
    return split_seeds(space_of(own, settings_of_record(record), record.config_dir))[0]


def later_overrides(later: dict[str, Any]) -> list[str]:
    """The overrides that make trials of today comparable with those of an earlier version."""
    found = []
    for key, value in later.items():
        if key in LATER_SECTIONS:
            found.append(f"~{key}")
        elif key != METRICS:  # whose default is what there was before it could be chosen
            found.append(f"++{key}={json.dumps(value)}")
    return found


def settings_of_record(record: Record) -> Settings:
    """The section `sweep` as it was planned; its texts are data, in which nothing is looked up."""
    return Settings(**check_config(OmegaConf.create({**as_data(record.settings)}), Settings, "sweep"))


def trial_overrides(record: Record, overrides: list[str], seed: int) -> list[str]:
    """All overrides of a trial, ready for Hydra's grammar; `overrides` are what distinguishes it.

    Raises:
        ConfigError: one of them is not a value of what the sweep varies: the ledger is somebody else's.
    """
    space = space_of_record(record)
    for text in overrides:
        if not any(parameter.has(text) for parameter in space.parameters):
            raise ConfigError(f"{shorten(text)}: in the ledger of the sweep, but not a value that {RECORD} varies")
    return [*space.fixed, *overrides, f"seed={seed}"]


def split_seeds(space: Space) -> tuple[Space, list[int]]:
    """The space without `seed`, and the values it has there: repetitions of a point, as `seeds` asks for."""
    swept = next((p for p in space.parameters if p.key == "seed"), None)
    if swept is None:
        return space, []
    if swept.values is None or swept.condition is not None or not all(isinstance(seed, int) for seed in swept.values):
        raise ConfigError("seed: list whole numbers (seed=1,2,3), or say how many there are (seeds=3)")
    return Space(space.fixed, [p for p in space.parameters if p is not swept]), list(swept.values)


def folder_name(number: int, overrides: list[str], seed: int, seeds: list[int]) -> str:
    """The folder of a trial: its number, and what distinguishes it."""
    parts = [*overrides, *([f"seed={seed}"] if len(seeds) > 1 else [])]
    return f"{number}_{slug(','.join(parts))}".rstrip("_")
