"""A Lightning Trainer that counts the length, the evaluations and the log in steps."""

import logging
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.figure import Figure
from pydantic import Field

from firstlight.checkpoints.find import CHECKPOINTS, checkpoint_name
from firstlight.checkpoints.folder_io import CheckpointFolderIO, Stored
from firstlight.config import BatchSize, FinitePositive, Steps, Timeout
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import DivergedError, RunError, one_line
from firstlight.training.callbacks.model_summary import ModelSummary
from firstlight.training.clock import Clock
from firstlight.training.cluster import OwnProcesses
from firstlight.training.lightning import (
    at_step_end,
    evaluate_when,
    leave_signals_alone,
    run_evaluation,
)
from firstlight.training.loggers.board import Board
from firstlight.training.precision import Precision
from firstlight.training.profiling import ProfilerName, keep_in, make_profiler
from firstlight.training.sharding import ShardedStrategy, local
from firstlight.training.stopping import Stopped, StopSignals
from firstlight.training.watching import Failures, watch_callback, watch_logger

OURS: dict[str, Any] = {
    "max_epochs": -1,  # the length is in steps, whatever an epoch is
    "num_sanity_val_steps": 0,  # the untrained model is evaluated as step 0
    # With these two Lightning asks `evaluate_when` after every batch.
    "check_val_every_n_epoch": None,
    "val_check_interval": 1,
    "use_distributed_sampler": False,  # our order cuts global batches into shares itself
}
"""Arguments that would let Lightning count in epochs and batches, set so that it does not."""
TAKEN_CALLBACKS = (
    callbacks.BaseFinetuning, callbacks.ModelPruning, callbacks.StochasticWeightAveraging,
)  # fmt: skip
INSTEAD = {
    callbacks.ModelCheckpoint: "checkpoints are saved by callbacks.checkpoint",
    callbacks.OnExceptionCheckpoint: "checkpoints are saved by callbacks.checkpoint",
    callbacks.LearningRateFinder: "compare rates with -m optimizer.lr=1e-4,3e-4,1e-3, or"
    " sweep=lr; firstlight lr-find makes a range test",
    callbacks.BatchSizeFinder: "trainer.micro_batch_size=auto finds what fits into memory",
    callbacks.GradientAccumulationScheduler: "set trainer.accumulate_grad_batches",
    callbacks.ThroughputMonitor: "callbacks.throughput measures the speed",
    callbacks.WeightAveraging: "callbacks=[default,ema] keeps an average of the weights",
}
"""Callbacks of Lightning's that cannot be used, and what does the same."""
TAKEN_BY = (
    "a run is one pass over the batches that its seed decides; see max_steps, eval_every_n_steps,"
    " data.eval_*"
)
TAKEN = (
    "check_val_every_n_epoch",
    "fast_dev_run",
    "limit_train_batches",
    "limit_val_batches",
    "max_time",
    "min_epochs",
    "min_steps",
    "num_sanity_val_steps",
    "overfit_batches",
    "plugins",
    "reload_dataloaders_every_n_epochs",
    "use_distributed_sampler",
    "val_check_interval",
)
"""Arguments of Lightning's by which it would count, or train, in another way."""


class AnotherFailedError(RunError):
    """Another process of the run has failed, and says why."""


class Trainer(pl.Trainer):
    """Lightning's Trainer; its arguments are open but for `not_in_config`.

    These are added or changed.

    Exactly one of `max_steps`, `max_epochs` and `max_tokens` is the length of the run. It is
    trained as one long pass over `data`, so that accumulation never stops short at the end of an
    epoch. What is due after which step is in `clock`; the untrained model is evaluated as step 0.
    `micro_batch_size`: a device takes its share of a batch in parts of at most this many windows;
    None: whole. `virtual_shards`: a batch consists of so many, each with random numbers of its own;
    None: of one for each process. `prepare` (plan.py) replaces "auto", here and in `precision`, by
    what it means on this machine.

    Raises:
        ValueError: not exactly one length, or no step at all.
    """

    not_in_config: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(TAKEN, f"cannot be set: {TAKEN_BY}"),
        "data": "the text is set by the section data",
        "logger": "loggers are set by the section logger: logger=[csv,tensorboard]",
        "callbacks": "callbacks are set by the section callbacks: callbacks=[default,x]",
        "default_root_dir": "the run folder is output_dir",
        "enable_progress_bar": "remove the progress bar with ~callbacks.progress",
        "enable_checkpointing": "turn off checkpoints with ~callbacks.checkpoint",
    }
    """Arguments that `fit` or this class gives, and what to set instead in a config."""
    stop_wanted: bool = False
    """Whether a callback wants to end the run, at the end of the present step."""
    saved_step: int = 0
    """The last step of which nothing is lost."""
    failure: Exception | None = None
    """What a callback raised, or a process that gathers batches, until the step is finished and
    saved."""
    row_writers: list[Callable[..., None]]
    """`log_metrics` of each logger."""
    pending_metrics: dict[str, float]
    """What was collected for the row of the present step."""
    row_is_written: bool = False
    """Whether the row of the present step can take no more."""
    flushed_step: int | None = None
    """The step of the last row of the logs."""
    texts: list[str]
    """What was shown on the boards since the last row of the logs."""
    advance: Callable[[], None]
    """Tells the other processes that this one has come further."""
    is_sharded: bool
    """Whether each process has only a part of the weights."""

    def __init__(
        self,
        *,
        data: TokenDataModule,
        max_steps: Steps | None = None,
        max_epochs: Annotated[float, Field(gt=0, le=10**6)] | None = None,
        max_tokens: Annotated[int, Field(gt=0, le=10**15)] | None = None,
        accumulate_grad_batches: Annotated[int, Field(gt=0, le=10**6)] = 1,
        micro_batch_size: BatchSize | Literal["auto"] | None = None,
        eval_every_n_steps: Steps,
        eval_first_step: Steps | None = None,
        log_every_n_steps: Steps = 10,
        gradient_clip_val: FinitePositive | None = None,
        devices: Annotated[int, Field(gt=0, le=1024)] = 1,
        strategy: Literal["auto", "ddp", "fsdp2"] = "auto",
        activation_checkpointing: bool = False,
        virtual_shards: Annotated[int, Field(gt=0, le=2**20)] | None = None,
        precision: Precision = "32-true",
        num_nodes: Annotated[int, Field(gt=0, le=2**16)] = 1,
        timeout: Timeout = 120,
        profiler: ProfilerName | Profiler | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["callbacks"], n_processes = _callbacks_among(kwargs), devices * num_nodes
        _check_shares(n_processes, data, virtual_shards)
        self.clock = Clock.of(
            data,
            max_steps=max_steps,
            max_epochs=max_epochs,
            max_tokens=max_tokens,
            batches_per_step=accumulate_grad_batches,
            log_every_n_steps=log_every_n_steps,
            eval_every_n_steps=eval_every_n_steps,
            eval_first_step=eval_first_step,
        )
        self.folder = Path(kwargs.pop("default_root_dir", None) or ".")
        self.micro_batch_size = None if micro_batch_size == "auto" else micro_batch_size
        self.virtual_shards = virtual_shards
        self.row_writers, self.texts, self.pending_metrics = [], [], {}
        self.advance, self.activation_checkpointing = _nothing, activation_checkpointing
        self.is_sharded = strategy == "fsdp2" and n_processes > 1
        if self.is_sharded:
            _check_sharded(kwargs["callbacks"], micro_batch_size, precision)
        super().__init__(
            max_steps=self.clock.max_steps,
            accumulate_grad_batches=accumulate_grad_batches,
            log_every_n_steps=log_every_n_steps,
            gradient_clip_val=gradient_clip_val,
            devices=devices,
            strategy=self._strategy(strategy, n_processes, timeout),
            precision=precision,  # type: ignore[arg-type]
            num_nodes=num_nodes,
            profiler=make_profiler(profiler),
            plugins=[CheckpointFolderIO(), OwnProcesses()],
            **OURS,
            **_enabled_by(kwargs["callbacks"]),
            **kwargs,
        )
        self.stop_signals, self.failures = StopSignals(), Failures(self.folder)
        leave_signals_alone(self)
        evaluate_when(self, lambda: self.at_step_end and self.is_eval_step)

    def _strategy(self, name: str, n_processes: int, timeout: float) -> Any:
        if self.is_sharded:
            return ShardedStrategy(n_processes, timeout)
        return "auto" if name == "fsdp2" else name  # one process has all there is

    @property
    def default_root_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    def begin_in(self, folder: Path, loggers: list[Logger]) -> None:
        """Take the run folder, which is made last, and loggers that write there.

        No logger, and no callback before its step is saved, ends the run from now on.
        """
        self.folder, self.loggers = folder, loggers
        self.failures = Failures(folder)
        for callback in self.callbacks:  # type: ignore[attr-defined]
            watch_callback(callback, self.failures, self._defer)
        for logger in self.loggers:
            watch_logger(logger, self.failures)
        # Kept before `log_metrics` is replaced, and after `watch_logger`: `flush` writes rows, and
        # no failure of a logger ends the run.
        self.row_writers = [logger.log_metrics for logger in self.loggers]
        for logger in self.loggers:
            logger.log_metrics = self._log_metrics
        keep_in(self.profiler, folder)  # type: ignore[attr-defined]

    def resume_from(self, stored: Stored) -> None:
        """Let `fit(ckpt_path=...)` take `stored`, which was read there already."""
        checkpoint_io = self.strategy.checkpoint_io
        assert isinstance(checkpoint_io, CheckpointFolderIO)
        checkpoint_io.hand_over(stored)

    @property
    def at_step_end(self) -> bool:
        """Did the batch that just ended complete an optimizer step?"""
        return at_step_end(self)

    @property
    def should_stop(self) -> bool:
        """Has a callback ended the run? It does end between two steps, evaluated and saved."""
        return self.stop_wanted and self.at_step_end

    @should_stop.setter
    def should_stop(self, wanted: bool) -> None:
        self.stop_wanted = wanted

    @property
    def is_eval_step(self) -> bool:
        """Is the model evaluated after the step that just ended?"""
        return self.clock.is_eval_step(self.global_step) or self.should_stop

    @property
    def is_log_step(self) -> bool:
        """Does the batch that just ended complete a step that gets a row in the logs?"""
        is_due = self.clock.is_log_step(self.global_step) or self.should_stop
        return self.at_step_end and is_due

    @property
    def in_log_step(self) -> bool:
        """Does the present batch, done or not, belong to a step that gets a row in the logs?"""
        step = self.fit_loop.total_batch_idx // self.clock.batches_per_step + 1
        return self.clock.is_log_step(step)

    @property
    def monitor(self) -> str:
        """The metric that decides which checkpoint is the best."""
        for callback in self.checkpoint_callbacks:
            if monitor := getattr(callback, "monitor", None):
                return monitor
        return "val/loss"

    def step_complete(self) -> None:
        """Save and stop, if it is time to: the step is done, with its evaluation and logs."""
        # What a hook collected now would stand in the row of a later step.
        self.row_is_written = True
        try:
            for callback in self.callbacks:  # type: ignore[attr-defined]
                hook = getattr(callback, "on_step_complete", None)
                if hook is not None:
                    hook(self)
        finally:
            self.row_is_written = False
        worker_failure = self.clock.data.worker_failure
        if worker_failure is not None:
            self.failure = self.failure or RunError(worker_failure)
        # All processes must decide alike: one that continued alone would wait for ever.
        failed, signum = self.all_agreed(
            [int(self.failure is not None), self.stop_signals.received]
        )
        # Saved first, so that whatever ended the run costs no step.
        if failed or signum:
            self.save_step()
        if failed:
            raise self.failure or AnotherFailedError("another process of this run has failed")
        if signum:
            raise Stopped(signum)

    def agreed(self, number: int) -> int:
        """The largest `number` of all processes: they stop together or not at all."""
        [largest] = self.all_agreed([number])
        return largest

    def all_agreed(self, numbers: list[int]) -> list[int]:
        """The largest of all processes in each place of `numbers`, exchanged at once."""
        if self.world_size == 1:
            return numbers
        # On the device: NCCL cannot exchange tensors of the CPU.
        own = torch.tensor(numbers, device=self.strategy.root_device)
        return self.strategy.reduce(own, reduce_op="max").tolist()

    def _defer(self, error: Exception) -> None:
        """Raise a callback's `error` once the step is saved; at once if nothing can be lost."""
        if self.global_step == self.saved_step:
            raise error
        self.failure = self.failure or error

    def save_step(self) -> None:
        """Save a checkpoint of this step, unless it is saved already.

        Raises:
            DivergedError: weights are nan or inf; they are not saved.
            RunError: it cannot be written; the earlier ones are as they were.
        """
        step = self.global_step
        if step == self.saved_step:
            return
        # No step is saved that has not been judged.
        self.lightning_module.guard.settle()  # type: ignore[operator]
        # The last line of defence: a checkpoint with nan in it would replace good ones.
        bad = ""
        for name, parameter in self.lightning_module.named_parameters():
            if not torch.isfinite(local(parameter)).all():
                bad = name.removeprefix("model.")
                break
        if self.agreed(int(bool(bad))):
            bad = bad or "a weight in another process"
            raise DivergedError(f"{bad} is not finite after step {step}; it is not saved")
        # Logs first: a run that resumes from this step must find what was logged before it.
        for logger in self.loggers:
            logger.save()
        folder = self.folder / CHECKPOINTS
        try:
            self.save_checkpoint(folder / checkpoint_name(step))
        except OSError as error:
            raise RunError(
                f"the checkpoint of step {step} cannot be written:"
                f" {error.strerror or one_line(error)} ({folder}{_free(folder)})"
            ) from error
        self.saved_step = step

    def evaluate_untrained(self) -> None:
        """Evaluate as step 0; no random number of training's is used up."""
        with isolate_rng():
            run_evaluation(self)

    @property
    def n_shards(self) -> int:
        """Shards of a batch, each with random numbers of its own."""
        return self.virtual_shards or self.world_size

    @property
    def shards_each(self) -> int:
        """Shards of a batch that one process takes, one after another."""
        return self.n_shards // self.world_size

    @property
    def largest_shard(self) -> int:
        """Windows of a shard at most, which a process takes at once unless it cuts them further."""
        return -(-self.clock.data.batch_size // self.n_shards)

    @property
    def tokens_seen(self) -> int:
        """Training tokens up to now."""
        return self.clock.tokens_after(self.global_step)

    @property
    def epochs_seen(self) -> float:
        """Passes over the training windows up to now.

        Where windows overlap, each is several passes over the text.
        """
        return self.clock.epochs_after(self.global_step)

    def collect(self, metrics: dict[str, float]) -> None:
        """Keep `metrics` for the row of the present step; a later value of a name replaces it.

        Raises:
            RuntimeError: that row is written already; see `step_complete`.
        """
        if self.row_is_written:
            raise RuntimeError(
                f"{', '.join(metrics)}: on_step_complete is too late to add to the logs, the row of"
                " the step is written; collect in on_train_batch_end, or in on_validation_end"
            )
        self.pending_metrics |= metrics

    def flush(self) -> None:
        """Write what was collected for this step, if anything, to every logger as one row."""
        self.texts = []
        if self.pending_metrics:
            # Every row has both: curves can be drawn over tokens, and steps differ in size between
            # runs.
            row = self.pending_metrics
            # What comes after the row of a step, as the test score, has them there already.
            if self.flushed_step != self.global_step:
                row = {"tokens": self.tokens_seen, "epoch": self.epochs_seen, **row}
            self.pending_metrics, self.flushed_step = {}, self.global_step
            for write in self.row_writers:
                write(row, step=self.global_step)

    def _log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """What loggers do for others than `flush`: what they log belongs to the row of the step.

        Lightning and its callbacks count steps from 0, and would each begin a row of their own.
        """
        names = [name for name in metrics if name not in ("tokens", "epoch")]
        self.collect({name: float(metrics[name]) for name in names})

    def log_text(self, tag: str, text: str) -> None:
        """Show `text` on every board, and on the screen with the figures of this evaluation."""
        self.texts.append(text)
        for board in self._boards():
            self.failures.attempt(
                type(board).__name__, board.show_text, tag, text, self.global_step
            )

    def log_figure(self, tag: str, figure: Figure) -> None:
        """Show `figure` on every board."""
        for board in self._boards():
            self.failures.attempt(
                type(board).__name__, board.show_figure, tag, figure, self.global_step
            )

    def _boards(self) -> list[Board]:
        # Asked each time: loggers come late, with the run folder.
        return [logger for logger in self.loggers if isinstance(logger, Board)]


def _nothing() -> None:
    """A run of one process waits for nobody."""


def _callbacks_among(given: dict[str, Any]) -> list[pl.Callback]:
    """The callbacks of the arguments `given`, in the order of their calls.

    Bars are last, as they show the others' results; a `ModelSummary` that is asked for is first.

    Raises:
        ValueError: they cannot be used, or not together.
    """
    ordered = sorted(given.get("callbacks") or [], key=_is_bar)
    _check_callbacks(ordered)
    # Ours, where Lightning would add its own, which logs to a logger that is silenced here.
    return [ModelSummary(), *ordered] if given.get("enable_model_summary", False) else ordered


def _is_bar(callback: pl.Callback) -> bool:
    return isinstance(callback, callbacks.ProgressBar)


def _enabled_by(given: list[pl.Callback]) -> dict[str, bool]:
    """The switches by which Lightning adds a bar and a checkpoint of its own, or refuses ours."""
    return {
        "enable_progress_bar": any(_is_bar(callback) for callback in given),
        "enable_checkpointing": any(isinstance(c, callbacks.Checkpoint) for c in given),
    }


def _free(folder: Path) -> str:
    """How much room there is, for a message; nothing if the file system does not tell."""
    try:
        return f", {shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        return ""


def refusal(error: Exception, setting: str) -> str | None:
    """Lightning's message for an unavailable device, precision or strategy, with the way out."""
    about_device = isinstance(error, ImportError) or re.search("accelerator|backend", str(error))
    if about_device and isinstance(
        error, MisconfigurationException | ImportError | ValueError | RuntimeError
    ):
        return f"{one_line(error)} ({setting}=cpu always works)"
    return one_line(error) if isinstance(error, MisconfigurationException) else None


def _check_shares(n_processes: int, data: TokenDataModule, virtual_shards: int | None) -> None:
    """Refuse shares of a batch that are not equal.

    Raises:
        ValueError: which.
    """
    if n_processes > data.batch_size:
        raise ValueError(
            f"devices ({n_processes} in all) must be at most data.batch_size ({data.batch_size}):"
            " they share the windows of a batch"
        )
    if virtual_shards is not None:
        _check_shards(virtual_shards, n_processes, data)


def _check_shards(virtual_shards: int, n_processes: int, data: TokenDataModule) -> None:
    """Refuse shards that processes cannot share, that would be empty, or that nothing seeds.

    Raises:
        ValueError: why.
    """
    if virtual_shards % n_processes:
        raise ValueError(
            f"virtual_shards ({virtual_shards}) must be a multiple of the processes"
            f" ({n_processes} in all): each computes as many shards of a batch"
        )
    if virtual_shards > data.batch_size:
        raise ValueError(
            f"virtual_shards ({virtual_shards}) must be at most data.batch_size"
            f" ({data.batch_size}): each has windows of its own"
        )
    if not data.order.resumable:
        raise ValueError(
            f"virtual_shards ({virtual_shards}) needs random numbers that follow from the seed and"
            " the step, as with order=seeded; leave it out"
        )


def _check_sharded(
    watchers: list[pl.Callback], micro_batch_size: int | str | None, precision: str
) -> None:
    """Refuse what does not work where each process has only a part of the weights.

    Raises:
        ValueError: which, and what to do instead.
    """
    if micro_batch_size == "auto":
        raise ValueError(
            "micro_batch_size=auto measures whole models; with strategy=fsdp2 give a number"
        )
    if precision.startswith("16-"):
        raise ValueError(
            f"precision ({precision}) does not work with strategy=fsdp2; take bf16-mixed"
        )
    if not any(getattr(watcher, "saves_step", False) for watcher in watchers):
        raise ValueError(
            "strategy=fsdp2 needs callbacks.checkpoint: the model of a finished run is that of a"
            " checkpoint"
        )


def _check_callbacks(watchers: list[pl.Callback]) -> None:
    """Refuse callbacks that train in another way, and two that are saved under one name.

    Raises:
        ValueError: which.
    """
    if taken := [type(c).__name__ for c in watchers if isinstance(c, TAKEN_CALLBACKS)]:
        raise ValueError(f"the callback {taken[0]} cannot be used: {TAKEN_BY}")
    for taken, instead in INSTEAD.items():
        if any(isinstance(c, taken) for c in watchers):
            raise ValueError(f"the callback {taken.__name__} cannot be used: {instead}")
    bars = [type(c).__name__ for c in watchers if _is_bar(c)]
    if len(bars) > 1:
        raise ValueError(
            f"{len(bars)} progress bars ({', '.join(bars)}), and only one can be shown; remove"
            " ours with ~callbacks.progress"
        )
    stateful = [c for c in watchers if type(c).state_dict is not pl.Callback.state_dict]
    keys = [c.state_key for c in stateful]
    if twice := next((type(c).__name__ for c in stateful if keys.count(c.state_key) > 1), None):
        raise ValueError(f"two {twice} callbacks; remove one with ~callbacks.its_name")


def quiet() -> None:
    """Silence Lightning's advertisements, and warnings about what is meant to be so here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        # a batch is one slice of the text: workers cost more than they save
        r".*does not have many workers.*",
        # position is a function of the step: see data/order.py
        r".*your dataloader is not resumable.*",
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # lightning 2.6 on torch 2.13
        r".*is smaller than the logging interval.*",
        # removed by an override, on purpose
        r".*callbacks used to create the checkpoint need to be provided.*",
        r".*in the `DataLoader` with `batch_size=None`.*",
        # a size in MB, of which bf16 has half
        r".*is not supported by the model summary.*",
        # srun would start the same single process
        r".*The `srun` command is available on your system but is not used.*",
    ):
        warnings.filterwarnings("ignore", message=message)
