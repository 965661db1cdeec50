"""Train one model: everything is checked first, then the run folder is made, then training begins."""

import functools
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.loggers.logger import Logger

from firstlight.checkpoints.checkpoint import Checkpoint as StoredCheckpoint
from firstlight.checkpoints.find import CHECKPOINTS, best_of, checkpoints_of
from firstlight.checkpoints.folder_io import clear_unfinished
from firstlight.checkpoints.manifest import WEIGHTS
from firstlight.checkpoints.model_file import save_model_file
from firstlight.config import NonEmpty, Seed, blame, build
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import MissingFileError, user_path
from firstlight.data.loader import end_workers
from firstlight.data.order import Order
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import (
    ConfigError,
    DivergedError,
    FinishedError,
    RunError,
    one_line,
    shorten,
)
from firstlight.files import check_file_system, existing_place, replacing, replacing_by_path
from firstlight.loss.base import Loss
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.metrics.base import Metric
from firstlight.metrics.measured import check_monitors, measured
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule
from firstlight.output import say
from firstlight.process_group import end_with
from firstlight.processes import first_process, is_further, shared_run_folder
from firstlight.runs.places import MOVED
from firstlight.runs.run_folder import (
    AUTO,
    new_run_folder,
    only_writer,
    read_config,
    update_run_folder,
)
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training import report
from firstlight.training.callbacks.checkpoint import Checkpoint
from firstlight.training.callbacks.sample_generation import SampleGeneration
from firstlight.training.compilation import Compilation, check_compiler
from firstlight.training.memory import check_memory, is_out_of_memory
from firstlight.training.micro_batches import find_micro_batch_size, n_parts_of
from firstlight.training.module import OnNan, OptimizerFactory, PretrainingModule
from firstlight.training.precision import precision_notes, resolve_precision
from firstlight.training.resume import Resumed, change_of_rate, check_resumable, find_resumed, keep_patience, why_ended
from firstlight.training.start import adopted, load_start, started_config
from firstlight.training.stopping import REQUEUE_SIGNAL, Stopped, in_slurm_job, requeue_slurm_job
from firstlight.training.trainer import Trainer, quiet, refusal


@dataclass(frozen=True)
class Fitted:
    """What a run came to."""

    folder: Path
    metrics: dict[str, float]
    steps: int


def fit(
    config: dict[str, Any],
    overrides: list[str],
    /,
    *,
    name: NonEmpty,
    output_dir: NonEmpty,
    seed: Seed,
    model: Callable[..., LanguageModel],
    tokenizer: Tokenizer,
    order: Order,
    data: Callable[..., TextDataModule],
    optimizer: OptimizerFactory,
    scheduler: Schedule,
    trainer: Callable[..., Trainer],
    loss: Loss | None = None,
    metrics: dict[str, Metric] | None = None,
    callbacks: dict[str, Callback] | None = None,
    logger: dict[str, Callable[..., Logger]] | None = None,
    on_nan: OnNan = "stop",
    init_from: NonEmpty | None = None,
    resume: NonEmpty | None = None,
    compile: bool = False,
) -> Fitted:
    """Train as `conf/_run.yaml`, whose keys are these arguments, says.

    `config` and `overrides` are kept with the run, and in its checkpoints. With `resume` the run in that folder goes
    on where its newest whole checkpoint is; otherwise `output_dir` becomes the folder (with a number if it is taken,
    unless `resume` is "auto", by which the same command is to find it again).

    Raises:
        ConfigError: something the user can put right; nothing has been written then.
        RunError: the run cannot go on: a loss or a gradient is not finite, or a checkpoint cannot be written. The
            checkpoints from before are whole.
        SystemExit: a signal has stopped the run; code 128 + its number.
    """
    quiet()
    loss = loss or CrossEntropy()  # of runs that earlier versions began, whose config has no such key
    all_metrics = measured(metrics)
    output_dir = str(user_path(output_dir))
    is_auto, resume = resume == AUTO, None if resume == AUTO else resume
    config = config | {"resume": None}  # of this command, not of the run: its checkpoints are the same without
    if config["trainer"].get("precision") == "auto":  # stored as what it is here: elsewhere it may be another
        precision = resolve_precision("auto", config["trainer"].get("accelerator", "auto"))
        config, trainer = _with_trainer(config, trainer, precision=precision)
    for key, make in (logger or {}).items():  # a constructor writes nothing, but may miss a package
        _section(f"logger.{key}", lambda make=make: make(save_dir=output_dir))
    with ExitStack() as held:  # the run folder, until all is done
        is_first = not is_further()  # of the processes of this run
        if not is_first:
            end_with(first_process())
        if resume is not None and is_first:
            held.enter_context(only_writer(Path(resume)))
            check_file_system(Path(resume), f"resume ({shorten(resume)})", "copy the run to another one")
        resumed = find_resumed(Path(resume)) if resume is not None else None
        start = load_checkpoint(find_checkpoint(init_from, key="init_from")) if init_from and resumed is None else None
        adoption = ""
        if resumed is not None:
            tokenizer = resumed.tokenizer
        elif start is not None:
            tokenizer, started = start.build_tokenizer(), started_config(config, start, overrides)
            adoption = adopted(config, started, start)
            config, model = started, build(started["model"])
        text = _section("data", lambda: data(tokenizer=tokenizer, order=order))
        _read(text, is_resumed=resume is not None)
        moments = _section("model", lambda: check_memory(model, text, optimizer, config["trainer"]))
        network = _network(model, text, seed, start)
        if start is not None and is_first:  # once, and not if the start was refused
            _note(adoption)
        del start  # its weights are the network's now
        all_callbacks = [*([Compilation()] if compile else []), *(callbacks or {}).values()]
        trainer = functools.partial(
            trainer,
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in all_callbacks),
            enable_checkpointing=any(isinstance(c, LightningCheckpoint) for c in all_callbacks),
        )
        check_monitors(callbacks or {}, all_metrics)
        planned, rate = _check_run(network, text, optimizer, moments, scheduler, trainer, all_callbacks, resumed)
        if config["trainer"].get("micro_batch_size") == "auto":  # stored as the number that was found
            found = _micro_batch_size(network, text, loss, optimizer, planned)
            config, trainer = _with_trainer(config, trainer, micro_batch_size=found)
        for oddity in [*text.notes, *precision_notes(config["trainer"].get("precision"))] if is_first else ():
            _note(oddity)

        folder = shared_run_folder() or (Path(resume) if resume is not None else None)
        if folder is None:
            _check_place(Path(output_dir), network.n_parameters, moments, all_callbacks)
            begun = new_run_folder(Path(output_dir), config=config, overrides=overrides, is_fixed=is_auto)
            folder = held.enter_context(begun)
        elif resume is not None and is_first:
            _note_changes(resumed, rate, update_run_folder(folder, config=config, overrides=overrides))
        purge = {"purge_step": resumed.step + 1 if resumed is not None else 0} if resume is not None else {}
        runner = trainer(
            data=text,
            logger=[make(save_dir=str(folder), **purge) for make in (logger or {}).values()],
            callbacks=all_callbacks,
            default_root_dir=str(folder),
        )
        module = PretrainingModule(
            model=network,
            data=text,
            loss=loss,
            optimizer=optimizer,
            scheduler=scheduler,
            config=config,
            metrics=all_metrics,
            on_nan=on_nan,
        )
        is_over = resumed is not None and why_ended(resumed, planned, all_callbacks) is not None
        _run(runner, module, moments, folder, resumed, is_over=is_over)
        return Fitted(folder, module.metrics, runner.global_step)


def _read(text: TextDataModule, *, is_resumed: bool) -> None:
    try:
        _section("data", text.setup)
    except ConfigError as error:
        if is_resumed and isinstance(error.__cause__, MissingFileError):
            raise ConfigError(f"{error}{MOVED}") from error
        raise


def _with_trainer(
    config: dict[str, Any], trainer: Callable[..., Trainer], **found: Any
) -> tuple[dict[str, Any], Callable[..., Trainer]]:
    """The config and the trainer with what was `found` in place of "auto"."""
    return config | {"trainer": config["trainer"] | found}, functools.partial(trainer, **found)


def _micro_batch_size(
    model: LanguageModel, data: TextDataModule, loss: Loss, optimizer: OptimizerFactory, planned: Trainer
) -> int:
    """What the first process of this run finds, and the others read in its folder."""
    if (folder := shared_run_folder()) is not None:
        return int(read_config(folder)["trainer"]["micro_batch_size"])
    return find_micro_batch_size(model, data, loss, optimizer, planned)


def _network(
    model: Callable[..., LanguageModel], data: TextDataModule, seed: int, start: StoredCheckpoint | None
) -> LanguageModel:
    """The model with its first weights: drawn from `seed`, or those of `start`."""
    pl.seed_everything(seed, workers=True, verbose=False)
    with torch.device("meta" if start is not None else "cpu"):  # no memory for what the weights replace
        network = _section("model", model)
    used = data.tokenizer.encoding.n_vocab
    if network.vocab_size < used:
        raise ConfigError(f"model.vocab_size ({network.vocab_size}) must be at least {used}, the ids of the tokenizer")
    if data.context_length > network.context_length:
        raise ConfigError(
            f"data.context_length ({data.context_length}) must not be above the model's ({network.context_length})"
        )
    if start is not None:
        load_start(network, start)
    return network


def _check_run(
    model: LanguageModel,
    data: TextDataModule,
    optimizer: OptimizerFactory,
    moments: int,
    scheduler: Schedule,
    trainer: Callable[..., Trainer],
    callbacks: list[Callback],
    resumed: Resumed | None,
) -> tuple[Trainer, float]:
    """Try everything that can be refused before the run begins; a trainer that shows its length, and the first rate."""
    for callback in callbacks:
        if isinstance(callback, SampleGeneration):
            _section("callbacks.sample_generation.decoding", lambda callback=callback: callback.check(model))
        if isinstance(callback, Checkpoint):
            _section("callbacks.checkpoint", lambda callback=callback: callback.check(model.n_parameters, moments))
    planned = _section("trainer", lambda: trainer(data=data, logger=False, callbacks=list(callbacks)))
    if resumed is not None:
        check_resumable(resumed, data)
        if (reason := why_ended(resumed, planned, callbacks)) and (resumed.run / WEIGHTS).is_file():
            raise FinishedError(f"resume: {reason}")
    peak = _section("optimizer", lambda: float(optimizer(model).param_groups[0]["lr"]))
    _section("scheduler", lambda: scheduler.check(max_steps=planned.max_steps, peak=peak))
    if any(isinstance(callback, Compilation) for callback in callbacks):
        _section("compile", lambda: check_compiler(planned.strategy.root_device))
    return planned, scheduler.lr(resumed.step if resumed else 0, max_steps=planned.max_steps, peak=peak)


def _check_place(wanted: Path, n_parameters: int, moments: int, callbacks: list[Callback]) -> None:
    """Refuse to begin what the disk has no room for, or its file system lacks the means for."""
    kept = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    written = n_parameters + moments if kept else 0  # one more while it is written
    others = 4 * (written + n_parameters)  # and the best weights
    needed = others + sum(c.least_bytes(n_parameters, moments) for c in kept)
    try:
        place = existing_place(wanted)
    except OSError:  # no name for a folder, as will be said when it is made
        return
    check_file_system(place, f"output_dir ({shorten(str(wanted))})", "give an output_dir on another one")
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # a file system that does not tell
        return
    if free < needed:
        least = others + sum(c.least_bytes(n_parameters, moments, keep_last=1) for c in kept)
        fewer = ", or callbacks.checkpoint.keep_last=1" if least <= free else ""
        raise ConfigError(
            f"output_dir ({shorten(str(wanted))}): the run's checkpoints need {needed / 1e9:.2g} GB, {free / 1e9:.2g} "
            f"are free there; give another output_dir{fewer}"
        )


def _note_changes(resumed: Resumed | None, rate: float, environment: dict[str, tuple[str, str]]) -> None:
    if resumed is None:
        _note("the run had not got to its first checkpoint: it begins again")
        return
    for problem in resumed.damaged:
        _note(f"{problem}; going on from step {resumed.step}")
    if change := change_of_rate(resumed, rate):
        _note(change)
    for name, (was, now) in environment.items():
        _note(f"{name} was {was} when the run began and is {now} now: its numbers may differ in the last bits")


def _run(
    trainer: Trainer,
    module: PretrainingModule,
    moments: int,
    folder: Path,
    resumed: Resumed | None,
    *,
    is_over: bool,
) -> None:
    """Train, say how it went, and keep the best weights; of a run that `is_over` only what it had not yet kept."""
    trainer.watch()
    if trainer.is_global_zero:
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
        clear_unfinished(folder / CHECKPOINTS)
        _say(report.opening(folder, module.model, module.data, trainer, moments))
        for logger in trainer.loggers if resumed is None else ():
            logger.log_hyperparams(module.config)
    if resumed is not None:
        trainer.saved_step = resumed.step
        keep_patience(trainer.callbacks)  # type: ignore[attr-defined]
        if is_over:
            trainer.fit_loop.epoch_loop.max_steps = resumed.step
        elif trainer.is_global_zero:
            (folder / WEIGHTS).unlink(missing_ok=True)  # the mark of an end that is no longer one
    with _explained(trainer, folder):
        with trainer.stop_signals, trainer.failures.of_threads():
            checkpoint = resumed.checkpoint if resumed is not None else None
            try:
                trainer.fit(module, datamodule=module.data, ckpt_path=checkpoint, weights_only=True)
            finally:
                end_workers()
        if trainer.failure is not None:
            raise trainer.failure
        if not math.isfinite(module.metrics.get("val/loss", math.nan)) or trainer.global_step == 0:
            raise DivergedError(f"the run ended after step {trainer.global_step} without a finite validation loss")
        if trainer.is_global_zero:
            if is_over:  # it was killed before this
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    callback.on_train_end(trainer, module)
                    if isinstance(callback, Checkpoint):
                        callback.remove_others(folder, trainer.global_step)
            _keep_best(module, folder)
            _say(report.closing(folder, module, trainer))


@contextmanager
def _explained(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Say, whatever ends the run inside, from where it can go on; a signal ends it with 128 + its number."""
    try:
        yield
    except SystemExit as stop:
        interrupted = isinstance(stop.__context__, KeyboardInterrupt)  # a second Ctrl-C, after which Lightning exits
        if not isinstance(stop, Stopped) and not interrupted:
            raise
        if not trainer.is_global_zero:  # Lightning kills a run of which one process fails, before the first can speak
            raise SystemExit(0) from None
        _say(f"\nstopped after step {trainer.global_step}\n{report.whereabouts(folder)}")
        if isinstance(stop, Stopped) and stop.signum == REQUEUE_SIGNAL and in_slurm_job():
            requeue_slurm_job()
        raise SystemExit(130 if interrupted else stop.code) from None
    except RunError as error:
        raise type(error)(f"{error}\n{report.whereabouts(folder)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise RunError(f"{_out_of_memory(trainer, error)}\n{report.whereabouts(folder)}") from error
        if trainer.is_global_zero:
            _note(report.whereabouts(folder))
        raise
    finally:
        for line in trainer.failures.summary() if trainer.is_global_zero else ():
            _note(line)


def _out_of_memory(trainer: Trainer, error: Exception) -> str:
    share = trainer.largest_share
    at_once = -(-share // n_parts_of(share, trainer.micro_batch_size))
    ways = ["a new run with a smaller model.context_length or model.emb_dim"]
    if at_once > 1:
        ways.insert(0, f"trainer.micro_batch_size={at_once // 2}, the same batch in smaller parts")
    reason = shorten(one_line(error), 120)
    return f"no memory is left on {trainer.strategy.root_device} ({reason}); {', or '.join(ways)}, needs less"


def _keep_best(module: PretrainingModule, folder: Path) -> None:
    """Leave the best weights, or the last if no checkpoint is kept, as `model.safetensors`: the mark of a run's end."""
    try:
        if saved := checkpoints_of(folder):
            with replacing(folder / WEIGHTS, "wb") as copy, (best_of(saved) / WEIGHTS).open("rb") as best:
                shutil.copyfileobj(best, copy)
        else:
            weights = module.model.state_dict()
            with replacing_by_path(folder / WEIGHTS) as file:
                save_model_file(weights, file, config=module.config, tokenizer=module.tokenizer_state)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise RunError(f"the best weights cannot be copied to {folder}: {reason}") from error


def _section(key: str, make: Callable[[], Any]) -> Any:
    """`make()`, with what it refuses reported as a mistake in the section `key` of the config."""
    try:
        return make()
    except Exception as error:
        if words := refusal(error, "trainer.accelerator"):
            raise ConfigError(f"{key}: {words}") from error
        if isinstance(error, ValueError | TypeError | OSError):
            raise blame(key, error) from error
        raise


def _note(text: str) -> None:
    _say(f"note: {text}", stderr=True)


def _say(text: str, *, stderr: bool = False) -> None:
    """Print, if anybody still listens: a terminal that was closed must not end a run."""
    try:
        say(text, stderr=stderr)
    except OSError:  # what is left in its buffer must go somewhere
        stream = sys.stderr if stderr else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
