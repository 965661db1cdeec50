"""The folder of a sweep while it is planned: begun, completed after a kill, or extended."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from firstlight.data.files import leads_to
from firstlight.errors import ConfigError, counted, shorten
from firstlight.files import check_links
from firstlight.lock import HeldError, only_process
from firstlight.output import note, say
from firstlight.overrides import command, named, words_to_paste
from firstlight.runs.new_folder import make_folder, numbered
from firstlight.runs.writer import LINKS_OF_WANDB
from firstlight.sweep.asked import Asked, asked
from firstlight.sweep.growth import DifferentError, same_or_more, with_words
from firstlight.sweep.ledger import PLANNING, Ledger, is_unplanned
from firstlight.sweep.plan import SweepPlan, absolute, changed, difference, make_plan
from firstlight.sweep.record import SWEEP_FILE, SweepRecord, Wanted, read_sweep, wanted_of
from firstlight.sweep.settings import directions_of
from firstlight.sweep.storage import check_told


def planned(overrides: list[str], config_dir: str | None) -> Path:
    """The folder of the sweep that `overrides` ask for: created, or extended if it exists.

    `overrides` are ready for Hydra's grammar.

    Raises:
        ConfigError: they are not valid, no point can be trained, or the folder is that of another
            sweep.
    """
    wish = asked(overrides, config_dir)
    # A folder that cannot be looked up is refused where it would be made.
    if wish.is_fixed and leads_to(wish.folder / SWEEP_FILE, Path.is_file):
        _add_to(wish.folder, wish)
        return wish.folder
    if not wish.has_values:
        raise ConfigError(
            "a sweep needs several values: list those of a key (optimizer.lr=1e-3,3e-3), or give"
            " sweep=lr or seeds=3; a single run is that of train, without -m"
        )
    # Everything is checked before a folder is made.
    plan = make_plan(wish.wanted, config_dir, storage=wish.storage)
    folder = wish.folder
    if not wish.is_fixed:
        folder = folder.with_name(f"{folder.name}_sweep")
    # Two commands with the same folder plan one after the other; the second finds it planned.
    with ExitStack() as held:
        folder = _held_folder(folder, held, is_fixed=wish.is_fixed)
        is_new = not (folder / SWEEP_FILE).is_file()
        if is_new:
            plan.record.write(folder)
            add_missing(folder, plan)
    if not is_new:
        _add_to(folder, wish)
    elif plan.refused:
        n_points = len(plan.refused) + len({row["attributes"]["point"] for row in plan.rows})
        _say_refused(plan.refused, f"{len(plan.refused)} of {n_points} points")
    return folder


def _add_to(folder: Path, wish: Asked) -> None:
    """Add to the sweep in `folder` what a command has that asks for the same, or more.

    Raises:
        ConfigError: it asks for another sweep.
    """

    def grown(record: SweepRecord) -> Wanted:
        return same_or_more(wanted_of(record), wish.wanted, record.config_dir)

    try:
        _plan_again(folder, grown, wish.storage, absolute(wish.config_dir))
    except DifferentError as change:
        extend = command("sweep", "extend", named("folder", str(folder)))
        raise ConfigError(
            f"output_dir ({shorten(str(folder))}) holds another sweep: {change}; give another one"
            f" (values, seeds and drawn points can be added: {extend} KEY=VALUE)"
        ) from None


def complete(
    folder: Path, *, storage: str | None, config_dir: str | None, words: Sequence[str]
) -> None:
    """Add to the sweep in `folder` what `words` name, and what an interrupted plan lacks.

    `words` are ready for Hydra's grammar. `storage` and `config_dir` are those that the user's own
    command names.

    Raises:
        ConfigError: its config has changed; it names a storage or a config_dir that the command
            does not; or `words` cannot be added.
    """
    record = read_sweep(folder)
    check_told(folder, record.storage, storage)
    if record.config_dir is not None and record.config_dir != absolute(config_dir):
        raise ConfigError(
            f"{folder / SWEEP_FILE}: its configs are read from another folder, too; if it is yours,"
            f" give {words_to_paste(config_dir=record.config_dir)}"
        )

    def grown(record: SweepRecord) -> Wanted:
        return with_words(wanted_of(record), words, record.config_dir)

    try:
        n_added = _plan_again(folder, grown, record.storage, record.config_dir)
    except DifferentError as change:
        raise ConfigError(
            f"the sweep was planned with another config: {change}; put it back, or begin a new"
            " sweep"
        ) from None
    if words and n_added == 0:
        say("nothing is added: the sweep has all of it already")


def _plan_again(
    folder: Path,
    grown: Callable[[SweepRecord], Wanted],
    storage: str | None,
    config_dir: str | None,
) -> int:
    """Plan the sweep in `folder` anew, to see whether it still means the same, and add to it.

    What is `grown` from its record, and the rest of a plan that was interrupted, is added.
    `storage` and `config_dir` are those that the sweep may use. Returns the number of trials by
    which it has grown.

    Raises:
        DifferentError: it does not mean the same.
        ConfigError: nothing of what is to be added can be trained.
    """
    while True:
        was = read_sweep(folder)
        # Before either is used: the record may be somebody else's.
        if (was.storage, was.config_dir) != (storage, config_dir):
            key = "storage" if was.storage != storage else "config_dir"
            named_now = {"storage": storage, "config_dir": config_dir}[key]
            raise DifferentError(difference(key, getattr(was, key), named_now))
        wanted = grown(was)
        is_grown = wanted != wanted_of(was)
        plan = make_plan(wanted, config_dir, storage=storage, earlier=was.earlier)
        change = changed(was, plan, is_grown=is_grown)
        if change is not None:
            raise DifferentError(change)
        refused = _newly_refused(was, plan)
        n_added = plan.record.n_trials - was.n_trials
        if is_grown and n_added == 0:
            point, problem = refused[0]
            raise ConfigError(f"{point}: {problem}: nothing can be added")
        with _planning(folder):
            if read_sweep(folder) != was:  # another command has extended it meanwhile
                continue
            if is_grown:
                _record_of_grown(was, plan).write(folder)
            add_missing(folder, plan)
        if is_grown:
            _say_grown(n_added, refused)
        return n_added


def _record_of_grown(was: SweepRecord, plan: SweepPlan) -> SweepRecord:
    # Relative paths of its trials start where the sweep was begun.
    return replace(plan.record, version=was.version, working_folder=was.working_folder)


def _newly_refused(was: SweepRecord, plan: SweepPlan) -> list[tuple[str, str]]:
    """The points that cannot be trained and that the sweep did not have before."""
    if not plan.refused:
        return []
    space = wanted_of(was).space(was.config_dir, was.earlier)
    old = {" ".join(space.overrides(point)) for point in space.grid()}
    return [(point, problem) for point, problem in plan.refused if point not in old]


def _say_grown(n_added: int, refused: list[tuple[str, str]]) -> None:
    say(f"added to the sweep: {counted(n_added, 'trial')}")
    if refused:
        _say_refused(refused, f"{len(refused)} of the new points")


def _say_refused(refused: list[tuple[str, str]], which: str) -> None:
    point, problem = refused[0]
    note(f"{which} cannot be trained and are left out; {point}: {problem}")


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
