"""TensorBoard: one entry per run, curves over steps and tokens, charts, a table of runs."""

import textwrap
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import scalar

from firstlight import processes
from firstlight.files import replacing, sync_folder, temporary_of
from firstlight.metrics.splits import is_final
from firstlight.runs.chosen import CHOSEN
from firstlight.runs.flat_config import hyperparameters
from firstlight.runs.run_folder import EVENT_FILES
from firstlight.training.lightning import begin_again, purge_nothing, writer_of
from firstlight.training.loggers.board import GIVEN_BY_FIT
from firstlight.training.loggers.shown_name import shown_name

OVER = "over_tokens/"
OVER_TOKENS = ("train/loss", "lr", "grad_norm", "tokens_per_second")
"""What has a curve over tokens as well, beside all that is measured on the validation split."""
LAYOUT = {
    "firstlight": {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "perplexity": ["Multiline", ["^train/perplexity$", "^val/perplexity$"]],
        "loss over tokens": ["Multiline", ["^over_tokens/train/loss$", "^over_tokens/val/loss$"]],
    }
}
RESULTS = {
    "train/loss": "Result/train_loss",
    "val/loss": "Result/val_loss",
    "val/bits_per_byte": "Result/val_bits_per_byte",
    "tokens_per_second": "Result/tokens_per_second",
}
BEST = "Result/best_val_loss"
"""With `RESULTS` the metrics that the HPARAMS table shows: it takes the first five by name,
capitals first."""
COMPARED = (
    CHOSEN,
    "model",
    "tokenizer",
    "data",
    "order",
    "optimizer",
    "scheduler",
    "trainer",
    "seed",
    "init_from",
    "freeze",
    "lr_scale",
)
"""Sections of the config that runs may differ in; TensorBoard shows those first in which they
do."""
NOT_COMPARED = (
    "trainer.enable_",
    "trainer.log_",
    "trainer.accelerator",
    "data.num_workers",
    "data.folder",
    "data.cache_dir",
)


class TensorBoardLogger(LightningTensorBoardLogger):
    """Lightning's, with event files in the run folder itself, whose name TensorBoard shows.

    `purge_step`: what a resumed run had logged from this step on is hidden, and nothing else is.
    """

    not_in_config = GIVEN_BY_FIT

    def __init__(self, *, save_dir: str, purge_step: int | None = None) -> None:
        # TensorBoard takes the first mark of a purge for the run's beginning, so a new run has one
        # as well
        super().__init__(
            save_dir,
            name="",
            version="",
            default_hp_metric=False,
            purge_step=None if purge_step else 0,
        )
        self.purge_step, self.has_layout = purge_step or 0, bool(purge_step)
        self.best = float("inf")

    @property
    def log_dir(self) -> str:
        return str(self.save_dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """TensorBoard's writer; first, what was logged after the checkpoint is hidden."""
        if self.purge_step:
            self.best = hide_from(Path(self.log_dir), self.purge_step)
            self.purge_step = 0
        if writer_of(self) is None:
            wait_for_the_next_name(Path(self.log_dir))
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "tokens" not in metrics:  # not a row: a test score, or of a callback of Lightning's
            if step is not None and any(map(is_final, metrics)):
                # The score comes after the last step. A run that is resumed from there scores again
                # at its end, and hides what comes after that step: the old score, too.
                step += 1
            super().log_metrics(metrics, step)
            return
        try:
            self._add_scalars(metrics, step)
        except OSError:
            begin_again(self)  # a writer that failed once never writes again
            purge_nothing(self)  # and the next one must not hide what was written
            raise

    def _add_scalars(self, metrics: Mapping[str, float], step: int | None) -> None:
        tokens = int(metrics["tokens"])
        if not self.has_layout:
            self.experiment.add_custom_scalars(LAYOUT)
            self.has_layout = True
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)
            if name in OVER_TOKENS or name.startswith("val/"):
                self.experiment.add_scalar(f"{OVER}{name}", value, tokens)
            if name in RESULTS:
                self.experiment.add_scalar(RESULTS[name], value, step)
        if "val/loss" in metrics:
            self.best = min(self.best, metrics["val/loss"])
            self.experiment.add_scalar(BEST, self.best, step)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Put the run into the HPARAMS table.

        Without torch's list of columns: TensorBoard takes one run's for all, and knows by itself
        what differs.
        """
        config = params if isinstance(params, dict) else vars(params)
        values = hyperparameters({k: config[k] for k in COMPARED if k in config}, NOT_COMPARED)
        if values.get("order.seed") == values.get("seed"):  # as it is unless it was set
            values.pop("order.seed", None)
        writer = self.experiment.file_writer
        assert writer is not None  # None only once it is closed
        is_trial = processes.trial() is not None
        if is_trial:  # those that differ in it alone are one row
            values.pop("seed", None)
        name = shown_name(Path(self.log_dir).absolute(), values, is_trial=is_trial)
        writer.add_summary(hparams_pb(values, trial_id=name))

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered, but no hparams.yaml as Lightning does: there is a config."""
        self.experiment.flush()

    def show_text(self, tag: str, text: str, step: int) -> None:
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 100) or [""]]
        # Indented by four spaces Markdown shows a text as it is.
        self.experiment.add_text(tag, "\n".join(f"    {line}" for line in lines), step)

    def show_figure(self, tag: str, figure: Figure, step: int) -> None:
        # close=False: the figure goes to other boards as well.
        self.experiment.add_figure(tag, figure, step, close=False)


@dataclass
class _Logged:
    """What the event files of a run hold, but for what was hidden because it was logged again.

    A point over tokens is told by its tag and its tokens.
    """

    over_tokens: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    """Value and time of the points over tokens."""
    shown: set[tuple[str, int]] = field(default_factory=set)
    """Those of them that TensorBoard shows: earlier versions hid some by mistake."""
    steps: dict[int, int] = field(default_factory=dict)
    """The step after which the run had seen so many tokens."""
    best: dict[int, float] = field(default_factory=dict)
    newest_step: int = -1
    last_step: int = -1
    """Of the point that was read last: each is followed by its twin over tokens."""

    def add(self, event: Event) -> None:
        """Take in the next event of the files."""
        if event.session_log.status == SessionLog.START:
            self._hide(event.step)
        for value in event.summary.value:
            if value.tag.startswith(OVER):
                point = value.tag, event.step
                self.over_tokens[point] = value.simple_value, event.wall_time
                self.shown.add(point)
                self.steps.setdefault(event.step, self.last_step)
            else:
                self.last_step = event.step
                self.newest_step = max(self.newest_step, event.step)
                if value.tag == BEST:
                    self.best[event.step] = value.simple_value

    def _hide(self, step: int) -> None:
        """Do what TensorBoard does at a mark of a purge.

        It hides all points that count at least as high, whether they count steps or tokens.
        """
        self.newest_step = min(self.newest_step, step - 1)
        self.best = {at: value for at, value in self.best.items() if at < step}
        self.over_tokens = self.before(step)
        self.shown = {
            point for point in self.shown if point in self.over_tokens and point[1] < step
        }

    def before(self, step: int) -> dict[tuple[str, int], tuple[float, float]]:
        """The points over tokens that were logged before `step`, in their order."""
        return {
            point: self.over_tokens[point]
            for point in sorted(self.over_tokens)
            if self.steps[point[1]] < step
        }


def wait_for_the_next_name(folder: Path) -> None:
    """Wait until a new event file in `folder` would sort after those that are there.

    TensorBoard reads them in the order of their names.

    A name begins with the second in which the file was made. Within one second the process's number
    decides, so what a quickly resumed run logs could be read before what it hides, and be hidden
    itself.
    """
    newest = 0
    for file in folder.glob(EVENT_FILES):
        second = file.name.removeprefix("events.out.tfevents.").split(".")[0]
        if second.isdecimal():
            newest = max(newest, int(second))
    while newest == int(time.time()):
        time.sleep(0.02)


def hide_from(folder: Path, step: int) -> float:
    """Hide what the event files of `folder` hold from `step` on.

    Returns the best validation loss before it.

    TensorBoard's mark of a purge hides every point that counts at least as high, and tokens count
    higher than steps. So the mark, and the points over tokens that it must not hide, are a file
    that appears whole: at no moment is anything missing. Where nothing is to be hidden, there is no
    mark.

    Raises:
        OSError: the files cannot be read or written.
    """
    logged, files = _Logged(), sorted(folder.glob(EVENT_FILES))
    for file in files:
        for event in LegacyEventFileLoader(str(file)).Load():
            logged.add(event)
    kept = logged.before(step)
    if files and (logged.newest_step >= step or kept.keys() != logged.shown):
        _write_mark(files[-1], step, kept)
    return min((value for at, value in logged.best.items() if at < step), default=float("inf"))


def _write_mark(
    newest: Path, step: int, points: dict[tuple[str, int], tuple[float, float]]
) -> None:
    """Write the mark and `points` into a file that TensorBoard reads after `newest`."""
    # TensorBoard reads every file that has "tfevents" in its name, unfinished or not.
    unfinished = temporary_of(newest.with_name("mark"))
    with replacing(newest.with_name(f"{newest.name}.resumed"), "wb", through=unfinished) as stream:
        records, now = RecordWriter(stream), time.time()
        records.write(
            Event(wall_time=now, step=step, file_version="brain.Event:2").SerializeToString()
        )
        start = SessionLog(status=SessionLog.START)
        records.write(Event(wall_time=now, step=step, session_log=start).SerializeToString())
        for (tag, tokens), (value, wall_time) in points.items():
            if tokens < step:  # not hidden
                continue
            summary = scalar(tag, value)
            records.write(
                Event(wall_time=wall_time, step=tokens, summary=summary).SerializeToString()
            )
    sync_folder(newest.parent)
