"""Sweeps: a run for each point of a space."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firstlight.api import html, words
from firstlight.api.call import Interrupted, command
from firstlight.api.run import Run
from firstlight.errors import ConfigError

if TYPE_CHECKING:
    from firstlight.api.comparison import Comparison


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    number: int
    state: str
    """planned, running, done, pruned, failed or refused."""
    overrides: list[str]
    """What distinguishes it, as on the command line."""
    seed: int
    metrics: dict[str, float]
    """At its end; `best/...` those of its best checkpoint."""
    run: Run | None
    """None while it has not begun."""
    error: str | None


class Sweep:
    """A sweep that was begun; its trials are as they are when they are asked for.

    `Sweep("outputs/...")` is the sweep in this folder, `Sweep("last")` the newest below outputs/.
    `storage` is the text of `sweep.storage` again, if its ledger is in a database elsewhere.

    Raises:
        Error: no such sweep.
    """

    def __init__(self, folder: words.Path, *, storage: str | None = None) -> None:
        from firstlight.sweep.record import read_sweep, sweep_named

        self.folder = sweep_named(words.path_text("sweep", folder)).absolute()
        self.storage = storage
        read_sweep(self.folder)  # it says what is wrong with it

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Sweep({str(self.folder)!r})"

    def status(self) -> dict[str, Any]:
        """All that `firstlight sweep status format=json` tells."""
        from firstlight.sweep import report
        from firstlight.sweep.ledger import Ledger

        # read_only: looking at a sweep changes nothing in its folder.
        with closing(Ledger.open(self.folder, self.storage, read_only=True)) as ledger:
            return report.status_data(ledger)

    @property
    def trials(self) -> list[Trial]:
        """The trials in order, but for those that are tried again."""
        return self._trials(self.status())

    def _trials(self, status: dict[str, Any]) -> list[Trial]:
        from firstlight.runs.run_folder import RunFolder

        trials = []
        for row in status["trials"]:
            # A failed trial that was tried again: its successor stands for it.
            if row["replaced_by"] is not None:
                continue
            run = None
            if row["folder"] is not None and RunFolder(self.folder / row["folder"]).is_run:
                run = Run(self.folder / row["folder"])
            kept = {name: row[name] for name in ("number", "state", "overrides", "seed")}
            trials.append(Trial(**kept, metrics=row["metrics"], run=run, error=row["error"]))
        return trials

    @property
    def runs(self) -> list[Run]:
        """The runs of the trials that are done."""
        found = []
        for trial in self.trials:
            # Pruned trials have weights and logs as well; failed ones may have neither.
            if trial.run is not None and trial.state in ("done", "pruned"):
                found.append(trial.run)
        return found

    @property
    def best(self) -> Run:
        """The run of the best point, of several seeds that of the first.

        Raises:
            Error: no point is done yet.
        """
        # The status ranks points, over their seeds, and a point has a run for each seed.
        status = self.status()
        best = status["best"]
        for trial in self._trials(status):
            if best and trial.overrides == best[0]["overrides"] and trial.run is not None:
                return trial.run
        raise ConfigError(f"{self.folder}: no point of this sweep is done yet")

    def resume(self, **settings: Any) -> "Sweep":
        """Make the trials that are left; `settings` are those of `firstlight sweep`.

        Raises:
            Error: trials have failed, or the config has changed since.
            Interrupted: Ctrl-C has stopped it.
        """
        return _work(self, "resume", settings)

    def retry(self, **settings: Any) -> "Sweep":
        """Make the trials that have failed again, and those that are left; see `resume`."""
        return _work(self, "retry", settings)

    def extend(self, *overrides: str, **settings: Any) -> "Sweep":
        """Add values of the keys that it sweeps over, seeds or points to draw, and make the trials.

        `sweep.extend("model=gpt2_small", seeds=3)`; settings of `firstlight sweep`, such as
        `storage`, may be among them. See `resume`.

        Raises:
            Error: they cannot be added (nothing has been written then), or trials have failed.
            Interrupted: Ctrl-C has stopped it.
        """
        return _work(self, "extend", settings, overrides)

    def compare(self, **settings: Any) -> "Comparison":
        """Its trials beside each other, see `firstlight.compare`."""
        from firstlight.api.comparison import compare

        return compare(self, storage=self.storage, **settings)

    def _repr_html_(self) -> str:
        status = self.status()
        objectives = status["objectives"]
        rows = []
        for trial in self._trials(status):
            values = [trial.metrics.get(name) for name in objectives]
            words = " ".join(trial.overrides)
            rows.append([trial.number, words, trial.seed, trial.state, *values, trial.error])
        headings = ["trial", "overrides", "seed", "state", *objectives, "what was wrong"]
        return html.paragraph(str(self.folder)) + html.table(headings, rows)


@command
def sweep(*overrides: str, config_dir: words.Path | None = None, **settings: Any) -> Sweep:
    """Train a run for each point of a space, and return the sweep.

    A key has several values in a string (`"optimizer.lr=1e-3,3e-3"`), or with `firstlight.choice`
    and `firstlight.interval`; `sweep="lr"` names a space of conf/sweep/. Each trial is a process of
    its own.

    Raises:
        Error: it is not valid (nothing has been written then), or trials have failed: the others
            are in `firstlight.Sweep("last")`.
        Interrupted: Ctrl-C has stopped it; `.sweep.resume()` resumes it.
    """
    from firstlight import verbs
    from firstlight.conf_files import using_config_dir
    from firstlight.training.stopping import Stopped

    args = words.arguments("train", overrides, settings, config_dir, is_sweep=True)
    with using_config_dir(args.config_dir):
        # Outside the try: a sweep that was never planned has nothing to resume.
        planned = verbs.plan_sweep(args.overrides, args.config_dir)
        try:
            verbs.command("sweep").run_sweep(planned, args.overrides, with_logging=False)
        except Stopped as stop:
            stopped = Sweep(planned.folder, storage=planned.storage)
            raise Interrupted(stop.signum, sweep=stopped) from None
    return Sweep(planned.folder, storage=planned.storage)


@command
def _work(
    sweep: Sweep, action: str, settings: dict[str, Any], overrides: Sequence[str] = ()
) -> Sweep:
    from firstlight import verbs
    from firstlight.conf_files import using_config_dir
    from firstlight.training.stopping import Stopped

    # A keyword of `sweep`, but not a key of conf/sweep.yaml.
    config_dir = settings.pop("config_dir", None)
    of_sweep = {"action": action, "folder": sweep.folder, "storage": sweep.storage}
    args = words.arguments("sweep", overrides, {**of_sweep, **settings}, config_dir)
    with using_config_dir(args.config_dir):
        try:
            verbs.sweep(args.overrides, args.config_dir, args.added, as_guest=True)
        except Stopped as stop:
            raise Interrupted(stop.signum, sweep=sweep) from None
    return sweep
