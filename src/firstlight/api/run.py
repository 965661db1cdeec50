"""A run, as its folder tells of it."""

import gc
import math
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from firstlight.api import html, words
from firstlight.api.call import Interrupted, command
from firstlight.data.files import ENVIRONMENT, is_hidden, leads_to, user_path
from firstlight.errors import ConfigError, reason_of, shorten
from firstlight.runs.run_folder import CONFIG, METRICS, SAMPLES, RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from firstlight.api.comparison import Comparison
    from firstlight.api.language_model import LanguageModel

Columns = dict[str, list[float | None]]
"""A table by columns; None: nothing was logged."""
WHOLE = ("step", "tokens")
"""Columns of whole numbers."""


class Run:
    """A run that was trained, is being trained, or was stopped.

    Each file is read when it is asked for.

    `Run("outputs/quickstart/...")` is the run in this folder, `Run("last")` the newest below
    outputs/. Wherever a run or a checkpoint is asked for, a `Run` can be given.

    Raises:
        Error: no such run.
    """

    def __init__(self, folder: words.Path) -> None:
        text = words.path_text("run", folder)
        self.folder = _newest() if text == "last" else user_path(text).absolute()
        if not leads_to(self.folder / CONFIG, Path.is_file):
            raise ConfigError(f"run ({shorten(text)}): {RunFolder(self.folder).why_no_run}")

    # os.fspath(run) is its folder: a Run is accepted wherever a path is.
    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    @property
    def config(self) -> dict[str, Any]:
        """The composed config; what came from the environment is its `${oc.env:...}`."""
        # Read anew each time, here and below: a run that trains in another process is as it is now.
        return RunFolder(self.folder, "run").config

    @property
    def is_finished(self) -> bool:
        """Whether it has made all its steps."""
        return RunFolder(self.folder, "run").is_finished

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each column of the history."""
        last: dict[str, float] = {}
        for name, values in self.history().items():
            # Columns are logged at different steps: each has its own last value.
            logged = [value for value in values if value is not None]
            if logged:
                last[name] = logged[-1]
        return last

    @overload
    def history(self) -> Columns: ...
    @overload
    def history(self, frame: Literal["pandas", "polars"]) -> Any: ...
    def history(self, frame: Literal["pandas", "polars"] | None = None) -> Any:
        """What was logged, one row per logged step.

        It is a dict of lists, or a frame of the package that `frame` names.

        Raises:
            Error: the package is not installed, or metrics.csv is not what firstlight writes.
        """
        columns = self._columns()
        if frame is None:
            return columns
        if frame not in ("pandas", "polars"):
            raise ConfigError(
                f"frame ({frame}): 'pandas' or 'polars', or left out: a dict of lists"
            )
        try:
            return import_module(frame).DataFrame(columns)
        except ImportError:
            raise ConfigError(f"frame ({frame}): not installed: pip install {frame}") from None

    def _columns(self) -> Columns:
        columns: Columns = {}
        try:
            for row in RunFolder(self.folder, "run").rows:
                for name, text in row.items():
                    # A step stays a whole number, as an index for users.
                    convert = int if name in WHOLE else float
                    columns.setdefault(name, []).append(convert(text) if text else None)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"{self.folder / METRICS}: not what firstlight writes ({reason_of(error)})"
            ) from None
        return columns

    def samples(self) -> dict[int, str]:
        """The text that was generated after each evaluation, by step."""
        # samples.txt may hold lines that look like marks; the steps of evaluations tell which are.
        history = self.history()
        evaluated = []
        steps = history.get("step", [])
        losses = history.get("val/loss", [None] * len(steps))  # none before the first evaluation
        for step, loss in zip(steps, losses, strict=True):
            if step is not None and loss is not None:
                evaluated.append(int(step))
        try:
            return RunFolder(self.folder, "run").samples(evaluated)
        except OSError as error:
            raise ConfigError(f"{self.folder / SAMPLES}: {reason_of(error)}") from None

    def resume(self, *overrides: str, **settings: Any) -> "Run":
        """Train on from the newest checkpoint; `trainer={"max_steps": 2000}` makes it longer.

        Raises:
            Error: it has finished, or cannot be resumed.
            Interrupted: Ctrl-C; it is saved.
        """
        return train(*overrides, **settings, resume=self.folder)

    def load(self, **settings: Any) -> "LanguageModel":
        """Its model, see `firstlight.load`."""
        from firstlight.api.language_model import load

        return load(self, **settings)

    def compare(self, *others: words.Path, **settings: Any) -> "Comparison":
        """It and other runs beside each other, see `firstlight.compare`."""
        from firstlight.api.comparison import compare

        return compare(self, *others, **settings)

    def plot(self, kind: Literal["loss", "perplexity"] = "loss") -> "Figure":
        """The training and the validation loss of each evaluation, or their perplexity.

        Raises:
            Error: it has not been evaluated yet.
        """
        from firstlight.api.figure import losses

        if kind not in ("loss", "perplexity"):
            raise ConfigError(f"kind ({kind}): 'loss' or 'perplexity'")
        return losses(self.history(), kind)

    def _repr_html_(self) -> str:
        """The folder, the last values and the losses, for a notebook."""
        state = "finished" if self.is_finished else "not finished"
        values = self.metrics
        page = html.paragraph(f"{self.folder} ({state})") + html.table([], values.items())
        if math.isfinite(values.get("val/loss", math.nan)):
            page += html.image(self.plot(), "training and validation loss")
        return page


@command
def train(*overrides: str, config_dir: words.Path | None = None, **settings: Any) -> Run:
    """Train a model; return its run.

    `overrides` are those of the command line, e.g. `"model=nano"`; `settings` the same as Python
    values, e.g. `model="nano", optimizer={"lr": 3e-4}`. `config_dir` is a folder of further YAML
    files.

    Raises:
        Error: a mistake in the settings (nothing has been written then), or the run has failed.
        Interrupted: Ctrl-C has stopped it between two steps; it is saved, and `.run.resume()`
            resumes it.
    """
    from firstlight import verbs
    from firstlight.conf_files import using_config_dir
    from firstlight.training.stopping import Stopped

    args = words.arguments("train", overrides, settings, config_dir)
    try:
        with using_config_dir(args.config_dir):
            return Run(verbs.train(args.overrides, args.config_dir, as_guest=True))
    # Stopped is a SystemExit, which would end the user's program.
    except Stopped as stop:
        raise Interrupted(stop.signum, run=Run(stop.folder or "last")) from None
    finally:
        gc.collect()  # model and trainer refer to each other, and may have a device's memory


def runs(root: words.Path = "outputs") -> list[Run]:
    """The runs below `root`, those of sweeps too, the one that was begun last at the end.

    Raises:
        Error: no such folder.
    """
    folder = user_path(words.path_text("root", root))
    if not leads_to(folder, Path.is_dir):
        raise ConfigError(f"root ({root}): no such folder")
    configs = []
    for file in folder.glob(f"**/{CONFIG}"):
        above = file.relative_to(folder).parts[: -len(CONFIG.parts)]
        # A hidden folder holds an unfinished or removed run.
        if not any(map(is_hidden, above)):
            configs.append(file)
    configs.sort(key=lambda file: (_begun(file.parents[1]), file))
    return [Run(file.parents[1]) for file in configs]


def _begun(folder: Path) -> float:
    """When a run was begun, in seconds of the clock: what is written then is not written again."""
    file = folder / ENVIRONMENT
    # Not config.yaml by itself: a resumed run writes it again. Runs of early versions have no other
    # file.
    return (file if file.is_file() else folder / CONFIG).stat().st_mtime


def _newest() -> Path:
    from firstlight.checkpoints.find import newest_run  # late: it imports torch

    return newest_run().absolute()
