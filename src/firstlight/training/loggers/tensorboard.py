"""TensorBoard: one entry a run: curves over steps and over tokens, charts of several curves, a table of runs."""

import textwrap
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from firstlight.training.flat_config import hyperparameters

EVENT_FILES = "events.out.tfevents.*"
OVER_TOKENS = ("train/loss", "val/loss", "val/perplexity", "val/bits_per_byte", "lr", "grad_norm", "tokens_per_second")
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
"""With `RESULTS` the metrics that the HPARAMS table shows: it takes the first five by name, capitals first."""
COMPARED = ("model", "tokenizer", "data", "order", "optimizer", "scheduler", "trainer", "seed", "init_from")
"""Sections of the config that runs may differ in; TensorBoard shows those first in which they do."""
NOT_COMPARED = ("trainer.enable_", "trainer.log_", "trainer.accelerator", "data.num_workers", "data.folder")


class TensorBoardLogger(LightningTensorBoardLogger):
    """Lightning's, with event files in the run folder itself, whose name TensorBoard shows.

    `purge_step`: what a run that is continued had logged from this step on is hidden.
    """

    def __init__(self, *, save_dir: str, purge_step: int | None = None) -> None:
        # TensorBoard takes the first mark of a purge for the run's beginning, so a new run has one as well
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step or 0)
        self.purge_step, self.has_begun = purge_step, False
        self.best = float("inf")

    @property
    def log_dir(self) -> str:
        return str(self.save_dir)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "tokens" not in metrics:  # not a row of ours: of a callback of Lightning's
            super().log_metrics(metrics, step)
            return
        try:
            self._add_scalars(metrics, step)
        except OSError:
            self._experiment = None  # a writer that failed once never writes again
            self._kwargs["purge_step"] = None  # and the next one must not hide what was written
            raise

    def _add_scalars(self, metrics: Mapping[str, float], step: int | None) -> None:
        tokens = int(metrics["tokens"])
        if not self.has_begun:
            if self.purge_step:
                self._go_on(self.purge_step, tokens)
            else:
                self.experiment.add_custom_scalars(LAYOUT)
            self.has_begun = True
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)
            if name in OVER_TOKENS:
                self.experiment.add_scalar(f"over_tokens/{name}", value, tokens)
            if name in RESULTS:
                self.experiment.add_scalar(RESULTS[name], value, step)
        if "val/loss" in metrics:
            self.best = min(self.best, metrics["val/loss"])
            self.experiment.add_scalar(BEST, self.best, step)

    def _go_on(self, purge_step: int, purge_tokens: int) -> None:
        """Take up what was logged before.

        A purge hides every point from `purge_step` on; those over tokens, which count higher, are written again.
        """
        over_tokens: dict[tuple[str, int], tuple[float, float]] = {}
        for file in sorted(Path(self.log_dir).glob(EVENT_FILES)):
            for event in LegacyEventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.tag.startswith("over_tokens/") and purge_step <= event.step < purge_tokens:
                        over_tokens[value.tag, event.step] = value.simple_value, event.wall_time
                    elif value.tag == BEST and event.step < purge_step:
                        self.best = min(self.best, value.simple_value)
        for (tag, tokens), (value, wall_time) in sorted(over_tokens.items()):
            self.experiment.add_scalar(tag, value, tokens, walltime=wall_time)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Put the run into the HPARAMS table.

        Without torch's list of columns: TensorBoard takes one run's for all, and knows by itself what differs.
        """
        config = params if isinstance(params, dict) else vars(params)
        values = hyperparameters({k: config[k] for k in COMPARED if k in config}, NOT_COMPARED)
        if values.get("order.seed") == values.get("seed"):  # as it is unless it was set
            values.pop("order.seed", None)
        self.experiment._get_file_writer().add_summary(hparams_pb(values, trial_id=""))  # its name is the run's

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered, without Lightning's hparams.yaml: the run folder holds the config."""
        self.experiment.flush()

    def show_text(self, tag: str, text: str, step: int) -> None:
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 100) or [""]]
        self.experiment.add_text(tag, "\n".join(f"    {line}" for line in lines), step)  # as it is, in Markdown

    def show_figure(self, tag: str, figure: Figure, step: int) -> None:
        self.experiment.add_figure(tag, figure, step, close=False)
