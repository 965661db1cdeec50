"""TensorBoard: curves over steps and over tokens, training and validation loss on one chart, a table of runs."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

OVER_TOKENS = ("train/loss", "val/loss", "val/perplexity", "val/bits_per_byte", "lr", "grad_norm", "tokens_per_second")
LAYOUT = {
    "firstlight": {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$", "^train/batch_loss$"]],
        "perplexity": ["Multiline", ["^train/perplexity$", "^val/perplexity$"]],
        "loss over tokens": ["Multiline", ["^over_tokens/train/loss$", "^over_tokens/val/loss$"]],
    }
}
HPARAM_SECTIONS = ("model", "tokenizer", "data", "order", "optimizer", "scheduler", "trainer", "seed")
HPARAM_METRICS = {"val/loss": "hp/val_loss", "train/loss": "hp/train_loss", "val/bits_per_byte": "hp/val_bits_per_byte"}


class TensorBoardLogger(LightningTensorBoardLogger):
    """Lightning's, with event files in `<save_dir>/tensorboard`, and what its dashboards need to be useful.

    `purge_step`: TensorBoard hides what a run that is continued had logged from this step on.
    """

    def __init__(self, *, save_dir: str, purge_step: int | None = None) -> None:
        super().__init__(save_dir, name="", version="tensorboard", default_hp_metric=False, purge_step=purge_step)
        self.purges, self.is_new = purge_step is not None, not purge_step
        self.over_tokens: SummaryWriter | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "tokens" not in metrics:  # not a row of ours: of a callback of Lightning's
            super().log_metrics(metrics, step)
            return
        try:
            self._add_scalars(metrics, step)
        except OSError:
            self._experiment, self.over_tokens = None, None  # a writer that failed once never writes again
            self._kwargs["purge_step"] = None  # and the next one must not hide what was written
            raise

    def _add_scalars(self, metrics: Mapping[str, float], step: int | None) -> None:
        tokens = int(metrics["tokens"])
        if self.over_tokens is None:
            # A folder of its own: what is purged of a continued run is counted in tokens there, not in steps.
            purge = tokens if self.purges else None
            self.over_tokens = SummaryWriter(f"{self.log_dir}/over_tokens", purge_step=purge)
            if self.is_new:
                self.experiment.add_custom_scalars(LAYOUT)
            self.purges, self.is_new = False, True  # what is purged is purged once
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)
            if name in OVER_TOKENS:
                self.over_tokens.add_scalar(f"over_tokens/{name}", value, tokens)
            if name in HPARAM_METRICS:  # the HPARAMS table shows the last value
                self.experiment.add_scalar(HPARAM_METRICS[name], value, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Put the run into the HPARAMS table: the composed config, flat."""
        config = params if isinstance(params, dict) else vars(params)
        values = flatten({section: config[section] for section in HPARAM_SECTIONS if section in config})
        for part in hparams(values, dict.fromkeys(HPARAM_METRICS.values(), 0.0)):
            self.experiment._get_file_writer().add_summary(part)

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered, without Lightning's hparams.yaml: the run folder holds the config.

        Raises:
            FileNotFoundError: the folder has vanished, and with it what is written to its open files.
        """
        if not Path(self.log_dir).is_dir():
            raise FileNotFoundError(f"{self.log_dir} is gone")
        self.experiment.flush()
        if self.over_tokens is not None:
            self.over_tokens.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self.over_tokens is not None:
            self.over_tokens.close()


def flatten(node: dict[str, Any], path: str = "") -> dict[str, bool | int | float | str]:
    """The values of a nested config by dotted key, without what instantiation alone reads."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{path}{key}.")
        elif not str(key).startswith("_"):
            flat[f"{path}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
