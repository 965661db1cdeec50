"""From the command line of a sweep to its folder and its ledger.

Every trial is composed and checked before the first one begins.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from firstlight import __version__
from firstlight.commands import train
from firstlight.compose.compose import compose_config, listed, parse_overrides
from firstlight.compose.grammar import MOST_TRIALS, examples_of
from firstlight.config import blame, build, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, one_line, shorten, shown
from firstlight.files import check_links
from firstlight.interpolation import check_kept
from firstlight.lock import HeldError, only_process
from firstlight.model.construction import without_weights
from firstlight.optim.by_name import frozen, rates
from firstlight.output import note
from firstlight.overrides import words_to_paste
from firstlight.runs.environment import working_folder
from firstlight.runs.later_keys import without
from firstlight.runs.new_folder import make_folder, numbered
from firstlight.runs.writer import LINKS_OF_WANDB
from firstlight.sweep.ledger import PLANNING, Ledger, NewRow, is_unplanned
from firstlight.sweep.record import (
    OF_THE_SWEEP,
    SWEEP_FILE,
    SweepRecord,
    later_overrides,
    read_sweep,
    settings_of_record,
    split_seeds,
)
from firstlight.sweep.settings import Count, Settings, directions_of, only_in_some
from firstlight.sweep.space import Space, Values, space_of
from firstlight.sweep.storage import check_told, hide_password

Config = dict[str, Any]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it begins; `refused` holds points that cannot be trained, and why."""

    record: SweepRecord
    settings: Settings
    rows: list[NewRow]
    refused: list[tuple[str, str]]


def planned(overrides: list[str], config_dir: str | None) -> Path:
    """The folder of the sweep that `overrides` ask for, created unless it exists.

    `overrides` are ready for Hydra's grammar.

    Raises:
        ConfigError: they are not valid, no point can be trained, or the folder is that of another
            sweep.
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
    seeds = [int(example.seed) + n for n in range(n_seeds)]
    wanted, is_fixed = user_path(str(example.output_dir)), "output_dir" in by_key
    storage = _storage_as_typed(by_key.get("sweep.storage"), settings)
    later = _later(wanted) if is_fixed else {}
    # Everything is checked before a folder is made.
    plan = make_plan(own, settings, seeds, config_dir, storage=storage, later=later)
    if not is_fixed:
        wanted = wanted.with_name(f"{wanted.name}_sweep")
    # Two commands with the same folder plan one after the other; the second finds it planned.
    with ExitStack() as held:
        folder = _held_folder(wanted, held, is_fixed=is_fixed)
        is_new = not (folder / SWEEP_FILE).is_file()
        if is_new:
            plan.record.write(folder)
        else:
            change = changed(read_sweep(folder), plan.record)
            if change is not None:
                raise ConfigError(
                    f"output_dir ({shorten(str(folder))}) holds another sweep: {change}; give"
                    " another one"
                )
        add_missing(folder, plan)
    if is_new and plan.refused:
        n_refused, (point, problem) = len(plan.refused), plan.refused[0]
        total = n_refused + len({row["attributes"]["point"] for row in plan.rows})
        note(
            f"{n_refused} of {total} points cannot be trained and are left out; {point}: {problem}"
        )
    return folder


def _section(key: str) -> str:
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
    if not isinstance(config.sweep, DictConfig):
        raise ConfigError(f"sweep: expected a section, got {shown(config.sweep)}")
    values = check_config(config.sweep, Settings, "sweep")
    n_seeds = check_config(OmegaConf.create({"seeds": config.seeds}), _of_seeds)["seeds"]
    for key, value in values["params"].items():
        # Hydra's parser does not know the options of a group: a glob is listed first.
        if "glob" in str(value):
            values["params"][key] = listed(f"{key}={value}", config_dir).partition("=")[2]
    return Settings(**values), n_seeds


def _of_seeds(*, seeds: Count) -> None:
    """What `seeds` may be."""


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


def _later(folder: Path) -> dict[str, Any]:
    """The keys without which the sweep in `folder` was planned, if there is one."""
    try:
        is_sweep = (folder / SWEEP_FILE).is_file()
    except OSError:  # not a possible name: refused where the folder is made
        return {}
    return read_sweep(folder).later if is_sweep else {}


def _held_folder(wanted: Path, held: ExitStack, *, is_fixed: bool) -> Path:
    """The folder of a sweep, which this process plans as long as `held` is open.

    It is `wanted`: new, the beginning of a sweep, or a sweep that is planned. Unless `is_fixed`, it
    is the first of `wanted`, `wanted_2`, ... that is not planned.

    Raises:
        ConfigError: it cannot be made, holds something else, or another process is planning the
            sweep.
    """
    for folder in numbered(wanted):
        make_folder(folder, "output_dir")
        is_planned = (folder / SWEEP_FILE).is_file()
        if not is_fixed and (is_planned or not is_unplanned(folder)):
            continue
        if not is_planned and not is_unplanned(folder):
            raise ConfigError(
                f"output_dir ({shorten(str(folder))}) holds something else already; give"
                " another one"
            )
        attempt = held.enter_context(ExitStack())
        try:
            attempt.enter_context(_planning(folder))
        except ConfigError:
            if is_fixed:
                raise
            continue
        if is_fixed or not (folder / SWEEP_FILE).is_file():
            return folder
        attempt.close()  # another process has planned its sweep here since
    raise AssertionError  # numbers do not end


@contextmanager
def _planning(folder: Path) -> Iterator[None]:
    """Hold the sweep in `folder` while it is planned.

    Raises:
        ConfigError: another process is planning it, nothing can be written there, or links lead out
            of it.
    """
    shown = shorten(str(folder))
    check_links(folder, LINKS_OF_WANDB)
    try:
        with only_process(folder / PLANNING):
            yield
    except HeldError as error:
        raise ConfigError(
            f"{shown}: {error} is planning this sweep; when it has, give the command again to work"
            " on it as well"
        ) from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be written ({error.strerror})") from None


def complete(folder: Path, *, storage: str | None, config_dir: str | None) -> None:
    """Finish the plan of the sweep in `folder` before it is resumed, if planning was interrupted.

    `storage` and `config_dir` are those that the user's own command names.

    Raises:
        ConfigError: its config has changed; or it names a storage or a config_dir that the command
            does not.
    """
    record = read_sweep(folder)
    check_told(folder, record.storage, storage)
    if record.config_dir is not None and record.config_dir != _absolute(config_dir):
        raise ConfigError(
            f"{folder / SWEEP_FILE}: its configs are read from another folder, too; if it is yours,"
            f" give {words_to_paste(config_dir=record.config_dir)}"
        )
    # Planned anew, from what was recorded, to see whether it still means the same.
    plan = make_plan(
        record.arguments,
        settings_of_record(record),
        record.seeds,
        record.config_dir,
        storage=record.storage,
        later=record.later,
    )
    change = changed(record, plan.record)
    if change is not None:
        raise ConfigError(
            f"the sweep was planned with another config: {change}; put it back, or begin a new"
            " sweep"
        )
    with _planning(folder):
        add_missing(folder, plan)


def _absolute(config_dir: str | None) -> str | None:
    return str(Path(config_dir).absolute()) if config_dir else None


def add_missing(folder: Path, plan: SweepPlan) -> None:
    """Add the rows that the ledger lacks: all of them, or the rest of an interrupted plan.

    What a process has left that was killed while it planned is made anew.
    """
    if plan.record.storage is not None or is_unplanned(folder):
        directions = directions_of(plan.settings.objectives, plan.record.config)
        ledger = Ledger.create(folder, plan.record, directions, plan.rows)
    else:
        ledger = Ledger.open(folder)
        ledger.add(plan.rows)
    ledger.close()


def make_plan(
    own: list[str],
    settings: Settings,
    seeds: list[int],
    config_dir: str | None,
    *,
    storage: str | None,
    later: dict[str, Any],
) -> SweepPlan:
    """Check all that the overrides `own` of the trials ask for, and write nothing.

    `later` are keys that the sweep was planned without; see `SweepRecord`.

    Raises:
        ConfigError: see `planned`.
    """
    # The space, without the seeds, which only repeat its points.
    everything = space_of([*own, *later_overrides(later)], settings, config_dir)
    space, swept_seeds = split_seeds(everything)
    seeds = swept_seeds or seeds
    is_grid = settings.sampler == "grid" or (settings.sampler is None and space.is_discrete)
    good: list[Values] = []
    refused: list[tuple[str, str]] = []
    configs: list[Config] = []
    # Configs do not depend on the seed: one of each point is checked.
    for point in _points(space, settings, len(seeds), is_grid=is_grid):
        config, problem = _checked(space, point, seeds[0], config_dir)
        if problem is None:
            good.append(point)
            configs.append(without(config, list(later)))
            directions_of(settings.objectives, configs[-1])  # refuses what is not measured there
        else:
            refused.append((" ".join(space.overrides(point)), problem))
    if not good:
        overrides, problem = refused[0]
        all_of_them = f" (as all {len(refused)} points of the sweep)" if len(refused) > 1 else ""
        raise ConfigError(f"{overrides}: {problem}{all_of_them}".removeprefix(": "))
    # The rows: the points of a grid are known, others are drawn when a worker takes them (None).
    points = good if is_grid else [None] * settings.trials
    rows: list[NewRow] = []
    for number, point in enumerate(points):
        known = {} if point is None else {"overrides": space.overrides(point)}
        for seed in seeds:
            attributes = {"point": number, "seed": seed, **known}
            rows.append({"params": point or {}, "attributes": attributes})
    record = SweepRecord(
        arguments=own,
        config_dir=_absolute(config_dir),
        config=configs[0],
        digests=[digest(config) for config in configs],
        settings=vars(settings) | {"storage": None},  # kept apart, as it was typed
        n_trials=len(rows),
        seeds=seeds,
        version=__version__,
        storage=storage,
        working_folder=working_folder(),
    )
    return SweepPlan(record, settings, rows, refused if is_grid else [])


def _points(space: Space, settings: Settings, n_seeds: int, *, is_grid: bool) -> list[Values]:
    """The points to check: all of a grid, or examples of what may be drawn.

    Raises:
        ConfigError: a grid is asked for that has no end, or there are too many trials.
    """
    if not is_grid:
        points, n_points = space.examples(), settings.trials
    else:
        for parameter in space.parameters:
            if parameter.values is None:
                raise ConfigError(
                    f"sweep.sampler=grid: {parameter.key} is an interval; list its values, or take"
                    " sweep.sampler=tpe"
                )
        points = space.grid()
        n_points = len(points)
    if n_points * n_seeds > MOST_TRIALS:
        keys = ", ".join(parameter.key for parameter in space.parameters) or "seeds"
        raise ConfigError(
            f"a sweep has at most {MOST_TRIALS:,} trials; give fewer values to {keys}, or fewer"
            " seeds"
        )
    return points


def _checked(
    space: Space, point: Values, seed: int, config_dir: str | None
) -> tuple[Config, str | None]:
    """The config of a point as it is kept, and why it cannot be trained."""
    overrides = [*space.fixed, *space.overrides(point), f"seed={seed}"]
    plain, kept = compose_trial(overrides, config_dir)
    if "checkpoint" not in (plain.get("callbacks") or {}):
        raise ConfigError(
            "callbacks.checkpoint is needed in a sweep: trials are resumed from it; do not"
            " remove it"
        )
    return kept, why_untrainable(plain)


def compose_trial(overrides: list[str], config_dir: str | None) -> tuple[Config, Config]:
    """The config of a trial, as it is built and as it is kept.

    What is kept lacks the keys that differ between its runs.

    Raises:
        ConfigError: it is not valid.
    """
    config = compose_config("train", overrides, config_dir)
    plain = train.arguments(config)
    return plain, check_kept(config, plain) | {"output_dir": "", "resume": None}


def digest(config: Config) -> str:
    """A short hash of a composed config."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def why_untrainable(plain: Config) -> str | None:
    """Why a config whose keys are all valid cannot be trained; None if nothing is found."""
    try:
        built = build(plain)
        try:
            # Without memory: shapes, and the names that freeze and lr_scale match, are checked.
            network = without_weights(partial(frozen, built["model"], built.get("freeze")))
            rates(network, built.get("lr_scale"))
        except (ValueError, TypeError) as error:
            raise blame("model", error) from error
        # A schedule is checked against the run's length, where the config tells it.
        steps, peak = _max_steps(plain), plain["optimizer"].get("lr")
        if steps is not None and peak is not None:
            built["scheduler"].check(max_steps=steps, peak=peak)
    except ConfigError as error:
        return one_line(error)
    except ValueError as error:
        return f"scheduler: {one_line(error)}"
    return None


def _max_steps(plain: Config) -> int | None:
    """The steps of a run; None if they depend on the length of its text."""
    trainer, data = plain["trainer"], plain["data"]
    if trainer.get("max_steps") is not None or not trainer.get("max_tokens"):
        return trainer.get("max_steps")
    tokens = data["batch_size"] * data["context_length"] * trainer.get("accumulate_grad_batches", 1)
    return trainer["max_tokens"] // max(tokens, 1)


def changed(was: SweepRecord, now: SweepRecord) -> str | None:
    """The first difference between two sweeps; None if they are the same."""
    # The overrides first: they are what the user typed, and explain all that follows.
    if was.arguments != now.arguments:
        gone, new = _lacking(was.arguments, now.arguments), _lacking(now.arguments, was.arguments)
        return f"{gone} is now {new}"
    for key in ("settings", "seeds", "config", "storage", "config_dir"):
        before, after = getattr(was, key), getattr(now, key)
        if before != after:
            return _difference(key, before, after)
    # Only the first config is kept whole; an edited file of conf/ may change another one.
    if was.digests != now.digests:
        return "the config of some of its points has changed"
    return None


def _lacking(some: Sequence[str], others: Sequence[str]) -> str:
    """Those of `some` that `others` lack."""
    return shorten(" ".join(word for word in some if word not in others)) or "nothing"


def _difference(path: str, was: Any, now: Any) -> str:
    """The first key below `path` whose value has changed, and how."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            if was.get(key) != now.get(key):
                where = str(key) if path == "config" else f"{path}.{key}"
                return _difference(where, was.get(key), now.get(key))
    return f"{path} was {shown(was)}, is {shown(now)}"
