"""The plan of a sweep: every trial is composed and checked before anything is written."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight import __version__
from firstlight.commands import train
from firstlight.compose.compose import compose_config
from firstlight.compose.grammar import MOST_TRIALS
from firstlight.config import blame, build
from firstlight.errors import ConfigError, one_line, shown
from firstlight.interpolation import check_kept
from firstlight.model.construction import without_weights
from firstlight.optim.by_name import rates
from firstlight.runs.environment import working_folder
from firstlight.runs.flat_config import flatten
from firstlight.runs.later_keys import THIS_VERSION, Earlier, without
from firstlight.sweep.ledger import NewRow
from firstlight.sweep.record import SweepRecord, Wanted
from firstlight.sweep.settings import Settings, directions_of
from firstlight.sweep.space import Space, Values
from firstlight.training.experiment import network_of

Config = dict[str, Any]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it begins; `refused` holds points that cannot be trained, and why."""

    record: SweepRecord
    settings: Settings
    rows: list[NewRow]
    refused: list[tuple[str, str]]
    configs: list[Config]
    """Those that were checked; see `SweepRecord.digests`."""


def make_plan(
    wanted: Wanted,
    config_dir: str | None,
    *,
    storage: str | None,
    earlier: Earlier = THIS_VERSION,
) -> SweepPlan:
    """Check all trials of the sweep that is wanted, and write nothing.

    `earlier` is the version that planned the sweep, if it was another one.

    Raises:
        ConfigError: it is not valid, or no point can be trained.
    """
    settings, seeds = wanted.settings, wanted.seeds
    space = wanted.space(config_dir, earlier)
    is_grid = space.is_grid(settings)
    good: list[Values] = []
    refused: list[tuple[str, str]] = []
    configs: list[Config] = []
    # Configs do not depend on the seed: one of each point is checked.
    for point in _points(space, settings, len(seeds), is_grid=is_grid):
        config, problem = _checked(space, point, seeds[0], config_dir)
        if problem is None:
            good.append(point)
            configs.append(without(config, list(earlier.lacks)))
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
        arguments=wanted.own,
        config_dir=absolute(config_dir),
        config=configs[0],
        digests=[digest(config) for config in configs],
        settings=vars(settings) | {"storage": None},  # kept apart, as it was typed
        n_trials=len(rows),
        seeds=seeds,
        version=__version__,
        storage=storage,
        working_folder=working_folder(),
    )
    return SweepPlan(record, settings, rows, refused if is_grid else [], configs)


def absolute(config_dir: str | None) -> str | None:
    return str(Path(config_dir).absolute()) if config_dir else None


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
            parts = (built["model"], built.get("parametrization"), built.get("freeze"))
            network = without_weights(network_of(*parts))
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


def changed(was: SweepRecord, plan: SweepPlan, *, is_grown: bool) -> str | None:
    """The first difference between a sweep as it was planned and its plan of today, if any.

    One that `is_grown` has the points of before, among others.
    """
    now = plan.record
    same_point = _nearest(was.config, plan.configs) if is_grown else now.config
    if was.config != same_point:
        return difference("config", was.config, same_point)
    # Only the first config is kept whole; an edited file of conf/ may change another one.
    lost = set(was.digests) - set(now.digests)
    if lost or (not is_grown and was.digests != now.digests):
        return "the config of some of its points has changed"
    return None


def _nearest(config: Config, others: Sequence[Config]) -> Config:
    """The one of `others` that differs from `config` in the fewest keys."""
    flat = flatten(config)

    def n_different(other: Config) -> int:
        values = flatten(other)
        return sum(values.get(key) != flat.get(key) for key in {**values, **flat})

    return min(others, key=n_different)


def difference(path: str, was: Any, now: Any) -> str:
    """The first key below `path` whose value has changed, and how."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            if was.get(key) != now.get(key):
                where = str(key) if path == "config" else f"{path}.{key}"
                return difference(where, was.get(key), now.get(key))
    return f"{path} was {shown(was)}, is {shown(now)}"
