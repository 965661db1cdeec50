# pyright: reportIncompatibleMethodOverride=false
# The bar is Lightning's, too, whose hooks are of any Trainer; this one is of ours.
"""What a run shows: a bar while it trains, a line and a sample after each evaluation."""

import math
from contextlib import suppress
from typing import Any

from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.text import Text

from firstlight.console import SafeConsole
from firstlight.metrics.perplexity import perplexity_text
from firstlight.training.callbacks.bars import Bar, bar_for
from firstlight.training.callbacks.base import Watcher
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

HEADER = "    step      tokens  train loss  val loss  perplexity  bits/byte"
IN_HEADER = ("loss", "perplexity", "bits_per_byte")
"""The metrics that have a column in every run; others get one each, to the right."""


class ProgressBar(Watcher, LightningProgressBar):
    """A bar with loss, tokens a second and the time left; in a file, the lines alone."""

    def __init__(self) -> None:
        super().__init__()
        self.console = _Console()
        self.is_enabled = True
        """Lightning switches it off on every process but the first."""
        self.bar: Bar | None = None

    def on_train_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        if not self.is_enabled:
            return
        further = "".join(f"  {label}" for label in _further(pl_module).values())
        self.console.print(Text(HEADER + further), soft_wrap=True)
        self.bar = bar_for(self.console, trainer.max_steps, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.bar is None or not trainer.at_step_end:
            return
        status = None
        if trainer.is_log_step and pl_module.batch_losses:
            # Bars are called last (trainer.py): the throughput of this step has been collected.
            rate = trainer.pending_metrics.get("tokens_per_second")
            speed = f"  {rate:,.0f} tok/s" if rate is not None else ""
            status = f"loss {float(pl_module.batch_losses[-1]):.3f}{speed}"
        self.bar.show(trainer.global_step, status)

    def on_validation_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        if not self.is_enabled:
            return
        m = pl_module.metrics
        train, val, bits = m["train/loss"], m["val/loss"], m.get("val/bits_per_byte", math.nan)
        further = "".join(
            f"  {m.get(name, math.nan):>{len(label)}.4g}"
            for name, label in _further(pl_module).items()
        )
        self.console.print(
            f"{trainer.global_step:>8} {trainer.tokens_seen:>11,} {train:>11.3f} {val:>9.3f}"
            f" {perplexity_text(val):>11} {bits:>10.3f}{further}",
            soft_wrap=True,
        )
        for text in trainer.texts:
            self.console.print(Text(_clean(text), style="dim"), soft_wrap=False)

    def on_train_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: PretrainingModule, exception: BaseException
    ) -> None:
        self._close()

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _further(pl_module: PretrainingModule) -> dict[str, str]:
    """The heads of further columns, wide enough for a number, by the names of their metrics."""
    names = [
        metric.name
        for metric in pl_module.measured
        if metric.on_screen and metric.name not in IN_HEADER
    ]
    return {f"val/{name}": f"val {name}".rjust(10) for name in names}


class _Console(SafeConsole):
    """A console that a closed pipe silences.

    `firstlight train | head` ends what is shown, not the run.
    """

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):  # what rich does after it has turned standard output away
            super().on_broken_pipe()


def _clean(text: str) -> str:
    """One paragraph without control characters: a sample must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
