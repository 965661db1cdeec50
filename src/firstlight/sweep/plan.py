"""From the command line of a sweep to its folder and its ledger: every trial is composed and checked before the first
begins."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from firstlight import __version__
from firstlight.compose.compose import compose_config, listed, parse_overrides
from firstlight.config import blame, build, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, one_line, shorten, shown
from firstlight.files import check_links
from firstlight.interpolation import check_kept
from firstlight.lock import HeldError, only_process
from firstlight.output import note
from firstlight.overrides import words_to_paste
from firstlight.runs.environment import working_folder
from firstlight.runs.later_keys import without
from firstlight.runs.new_folder import make_folder, numbered
from firstlight.runs.writer import LINKS_OF_WANDB
from firstlight.sweep.ledger import PLANNING, Ledger, is_unplanned
from firstlight.sweep.record import (
    OF_THE_SWEEP,
    RECORD,
    Record,
    later_overrides,
    read_record,
    settings_of_record,
    split_seeds,
)
from firstlight.sweep.settings import MOST_TRIALS, Count, Settings, only_in_some
from firstlight.sweep.space import Space, parameter_of, space_of
from firstlight.sweep.storage import check_told, hidden_password

Check = Callable[[DictConfig], dict[str, Any]]
"""A composed config as plain arguments, or a `ConfigError`."""


@dataclass(frozen=True)
class Plan:
    """A sweep before it begins. `refused` are points that cannot be trained, and why."""

    record: Record
    settings: Settings
    rows: list[dict[str, Any]]
    refused: list[tuple[str, str]]


def planned(overrides: list[str], config_dir: str | None, check: Check) -> Path:
    """The folder of the sweep that `overrides`, ready for Hydra's grammar, ask for; made, unless it is already there.

    Raises:
        ConfigError: it is not valid, no point of it can be trained, or its folder is that of another sweep.
    """
    parsed = parse_overrides(overrides)
    given = {o.key_or_group: o for o in parsed}
    if "resume" in given and given["resume"].value() is not None:
        raise ConfigError("resume: resumes one run, without -m; to resume a sweep: firstlight sweep resume DIR")
    if swept := next((k for k, o in given.items() if k.split(".")[0] in OF_THE_SWEEP and o.is_sweep_override()), None):
        raise ConfigError(f"{swept}: cannot be swept over")
    example = _first(overrides, config_dir)
    settings, n_seeds = _settings(example, config_dir)
    hidden_password(settings.storage)
    own = [t for t, o in zip(overrides, parsed, strict=True) if o.key_or_group.split(".")[0] not in OF_THE_SWEEP]
    if n_seeds > 1 and "seed" in given and given["seed"].is_sweep_override():
        raise ConfigError("seeds: the seeds are listed already (seed=...); give one of the two")
    seeds = [int(example.seed) + n for n in range(n_seeds)]
    wanted, is_fixed = user_path(str(example.output_dir)), "output_dir" in given
    storage, later = _storage_as_typed(overrides, settings), _later(wanted) if is_fixed else {}
    plan = make_plan(own, settings, seeds, config_dir, check=check, storage=storage, later=later)
    wanted = wanted if is_fixed else wanted.with_name(f"{wanted.name}_sweep")
    with ExitStack() as held:
        folder = _held_folder(wanted, held, is_fixed=is_fixed)
        is_new = not (folder / RECORD).is_file()
        if is_new:
            plan.record.write(folder)
        elif change := changed(read_record(folder), plan.record):
            raise ConfigError(f"output_dir ({shorten(str(folder))}) holds another sweep: {change}; give another one")
        add_missing(folder, plan)
    for line in _notes(plan) if is_new else ():
        note(line)
    return folder


def _later(folder: Path) -> dict[str, Any]:
    """The keys without which the sweep in `folder` was planned, if there is one."""
    try:
        is_sweep = (folder / RECORD).is_file()
    except OSError:  # no name for a folder, as is said when it is to be made
        return {}
    return read_record(folder).later if is_sweep else {}


def _held_folder(wanted: Path, held: ExitStack, *, is_fixed: bool) -> Path:
    """The folder of a sweep, which this process plans as long as `held` is open.

    It is `wanted`, new, the beginning of a sweep, or one that is planned; unless `is_fixed`, the first of `wanted`,
    `wanted_2`, ... that is not planned.

    Raises:
        ConfigError: it cannot be made, holds something else, or another process is planning the sweep.
    """
    for folder in numbered(wanted):
        make_folder(folder, "output_dir")
        is_planned = (folder / RECORD).is_file()
        if not is_fixed and (is_planned or not is_unplanned(folder)):
            continue
        if not is_planned and not is_unplanned(folder):
            raise ConfigError(f"output_dir ({shorten(str(folder))}) holds something else already; give another one")
        attempt = held.enter_context(ExitStack())
        try:
            attempt.enter_context(_planning(folder))
        except ConfigError:
            if is_fixed:
                raise
            continue
        if is_fixed or not (folder / RECORD).is_file():
            return folder
        attempt.close()  # another process has planned its sweep here since
    raise AssertionError  # numbers do not end


@contextmanager
def _planning(folder: Path) -> Iterator[None]:
    """Hold the sweep in `folder` while it is planned.

    Raises:
        ConfigError: another process is planning it, nothing can be written there, or links lead out of it.
    """
    shown = shorten(str(folder))
    check_links(folder, LINKS_OF_WANDB)
    try:
        with only_process(folder / PLANNING):
            yield
    except HeldError as error:
        raise ConfigError(
            f"{shown}: {error} is planning this sweep; when it has, give the command again to work on it as well"
        ) from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be written ({error.strerror})") from None


def complete(folder: Path, check: Check, *, storage: str | None, config_dir: str | None) -> None:
    """Complete the plan of the sweep in `folder`, if planning was interrupted, before the sweep is resumed.

    `storage` and `config_dir` are those that the user's own command names.

    Raises:
        ConfigError: its config is another one now; or it names a storage or a config_dir that the command does not.
    """
    record = read_record(folder)
    check_told(folder, record.storage, storage)
    if record.config_dir is not None and record.config_dir != (config_dir and str(Path(config_dir).absolute())):
        raise ConfigError(
            f"{folder / RECORD}: its configs are read from another folder, too; if it is yours, give "
            f"{words_to_paste(config_dir=record.config_dir)}"
        )
    settings = settings_of_record(record)
    plan = make_plan(
        record.arguments,
        settings,
        record.seeds,
        record.config_dir,
        check=check,
        storage=record.storage,
        later=record.later,
    )
    if change := changed(record, plan.record):
        raise ConfigError(f"the sweep was planned with another config: {change}; put it back, or begin a new sweep")
    with _planning(folder):
        add_missing(folder, plan)


def add_missing(folder: Path, plan: Plan) -> None:
    """Put the rows into the ledger that are not there: all of them, or those that were not when planning stopped.

    What a process that was killed while it planned has left is made again.
    """
    if plan.record.storage is not None or is_unplanned(folder):
        ledger = Ledger.create(folder, plan.record, len(plan.settings.objectives), plan.rows)
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
    check: Check,
    storage: str | None,
    later: dict[str, Any],
) -> Plan:
    """Check all that the overrides `own` of the trials ask for, and write nothing.

    `later` are keys that the sweep was planned without; see `Record`.

    Raises:
        ConfigError: see `planned`.
    """
    space, swept_seeds = split_seeds(space_of([*own, *later_overrides(later)], settings, config_dir))
    seeds = swept_seeds or seeds
    is_grid = settings.sampler == "grid" or (settings.sampler is None and space.is_discrete)
    if is_grid and not space.is_discrete:
        key = next(p.key for p in space.parameters if p.values is None)
        raise ConfigError(f"sweep.sampler=grid: {key} is an interval; list its values, or take sweep.sampler=tpe")
    points = list(islice(space.grid(), MOST_TRIALS + 1)) if is_grid else []
    if (len(points) if is_grid else settings.trials) * len(seeds) > MOST_TRIALS:
        keys = ", ".join(p.key for p in space.parameters) or "seeds"
        raise ConfigError(f"a sweep has at most {MOST_TRIALS:,} trials; give fewer values to {keys}, or fewer seeds")
    checked = [(point, *_checked(space, point, seeds[0], config_dir, check)) for point in points or space.examples()]
    refused = [(" ".join(space.overrides(point)), problem) for point, _, problem in checked if problem is not None]
    if len(refused) == len(checked):
        all_of_them = f" (as all {len(refused)} points of the sweep)" if len(refused) > 1 else ""
        raise ConfigError(f"{refused[0][0]}: {refused[0][1]}{all_of_them}".removeprefix(": "))
    configs = [without(config, list(later)) for _, config, problem in checked if problem is None]
    good = [point for point, _, problem in checked if problem is None] if is_grid else [None] * settings.trials
    rows = [_row(space, point, number, seed) for number, point in enumerate(good) for seed in seeds]
    record = Record(
        arguments=own,
        config_dir=str(Path(config_dir).absolute()) if config_dir else None,
        config=configs[0],
        digests=[digest(config) for config in configs],
        settings=vars(settings) | {"storage": None},
        n_trials=len(rows),
        seeds=seeds,
        version=__version__,
        storage=storage,
        working_folder=working_folder(),
    )
    return Plan(record, settings, rows, refused if is_grid else [])


def composed(overrides: list[str], config_dir: str | None, check: Check) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of a trial as it is built, and as it is kept, without what is not the same in each of its runs.

    Raises:
        ConfigError: it is not valid.
    """
    config = compose_config("train", overrides, config_dir)
    plain = check(config)
    return plain, check_kept(config, plain) | {"output_dir": "", "resume": None}


def digest(config: dict[str, Any]) -> str:
    """What tells two composed configs apart."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def refusal(plain: dict[str, Any]) -> str | None:
    """Why a config that is valid key by key cannot be trained all the same; None if it can, as far as is seen here."""
    try:
        built = build(plain)
        with torch.device("meta"):  # no memory: its shapes are what is checked
            try:
                built["model"]()
            except (ValueError, TypeError) as error:
                raise blame("model", error) from error
        steps, batch = plain["trainer"].get("max_steps"), plain["data"]
        if steps is None and (tokens := plain["trainer"].get("max_tokens")):
            accumulate = plain["trainer"].get("accumulate_grad_batches", 1)
            steps = tokens // max(batch["batch_size"] * batch["context_length"] * accumulate, 1)
        peak = plain["optimizer"].get("lr")
        if steps is not None and peak is not None:
            built["scheduler"].check(max_steps=steps, peak=peak)
    except ConfigError as error:
        return one_line(error)
    except ValueError as error:
        return f"scheduler: {one_line(error)}"
    return None


def _checked(
    space: Space, point: dict[str, Any], seed: int, config_dir: str | None, check: Check
) -> tuple[dict[str, Any], str | None]:
    """The config of a point as it is kept, and why it cannot be trained."""
    overrides = [*space.fixed, *space.overrides(point), f"seed={seed}"]
    plain, kept = composed(overrides, config_dir, check)
    if "checkpoint" not in (plain.get("callbacks") or {}):
        raise ConfigError("callbacks.checkpoint is needed in a sweep: trials are resumed from it; do not remove it")
    return kept, refusal(plain)


def _first(overrides: list[str], config_dir: str | None) -> DictConfig:
    """The config of the first trial, with the section of the sweep, without what is set only in some."""
    some, first = only_in_some(overrides, config_dir), []
    for text, override in zip(overrides, parse_overrides(overrides), strict=True):
        if override.key_or_group in some:
            continue
        if override.is_sweep_override():
            parameter = parameter_of(text, override)
            text = parameter.override(parameter.ends()[0])
        first.append(text)
    return compose_config("train", first, config_dir)


def _settings(config: DictConfig, config_dir: str | None) -> tuple[Settings, int]:
    if not isinstance(config.sweep, DictConfig):
        raise ConfigError(f"sweep: expected a section, got {shown(config.sweep)}")
    values = check_config(config.sweep, Settings, "sweep")
    seeds = check_config(OmegaConf.create({"seeds": config.seeds}), _of_seeds)["seeds"]
    params = {
        k: listed(f"{k}={v}", config_dir).partition("=")[2] if "glob" in str(v) else v
        for k, v in values["params"].items()
    }
    return Settings(**{**values, "params": params}), seeds


def _of_seeds(*, seeds: Count) -> None:
    """What `seeds` may be."""


def _row(space: Space, point: dict[str, Any] | None, number: int, seed: int) -> dict[str, Any]:
    overrides = {"overrides": space.overrides(point)} if point is not None else {}
    return {"params": point or {}, "attributes": {"point": number, "seed": seed, **overrides}}


def _storage_as_typed(overrides: list[str], settings: Settings) -> str | None:
    if settings.storage is None:
        return None
    typed = [o.value() for o in parse_overrides(overrides) if o.key_or_group == "sweep.storage"]
    text = str(typed[-1]) if typed else settings.storage
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(f"sweep.storage ({shorten(text)}): {one_line(error)}") from None
    secrets = [str(url.password or ""), *(str(value) for key, value in url.query.items() if "pass" in key)]
    if any(secret and re.fullmatch(r"\$\{oc\.env:[^{}]+\}", secret) is None for secret in secrets):
        raise ConfigError("sweep.storage: the password would be kept in the sweep's folder: give ${oc.env:NAME}")
    return text


def changed(was: Record, now: Record) -> str | None:
    """The first difference between two sweeps; None if they are the same."""
    for key in ("arguments", "settings", "seeds", "config", "storage", "config_dir"):
        before, after = getattr(was, key), getattr(now, key)
        if before != after and key == "arguments":
            gone, new = [a for a in before if a not in after], [a for a in after if a not in before]
            return f"{shorten(' '.join(gone)) or 'nothing'} is now {shorten(' '.join(new)) or 'nothing'}"
        if before != after:
            return next(_differences(key, before, after))
    if was.digests != now.digests:  # of one that is not the first, as when a file of conf/ was edited
        return "the config of some of its points is another one"
    return None


def _differences(path: str, was: Any, now: Any) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            if was.get(key) != now.get(key):
                where = str(key) if path == "config" else f"{path}.{key}"
                yield from _differences(where, was.get(key), now.get(key))
    else:
        yield f"{path} was {shown(was)}, is {shown(now)}"


def _notes(plan: Plan) -> Iterator[str]:
    if plan.refused:
        n, (overrides, problem) = len(plan.refused), plan.refused[0]
        total = n + len({row["attributes"]["point"] for row in plan.rows})
        yield f"{n} of {total} points cannot be trained and are left out; {overrides}: {problem}"
