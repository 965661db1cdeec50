"""Train one model: everything is checked first, then the run folder is made, then training begins."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console

from firstlight.config import NonEmpty, Seed, blame, build
from firstlight.data.datamodule import TextDataModule
from firstlight.data.order import Order
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, DivergedError
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule
from firstlight.training import report
from firstlight.training.callbacks.sample_generation import SampleGeneration
from firstlight.training.module import OptimizerFactory, PretrainingModule
from firstlight.training.run_folder import create_run_folder, shared_run_folder, update_run_folder
from firstlight.training.start import adopted, load_start, started_config
from firstlight.training.trainer import Trainer, quiet, refusal
from firstlight.weights.checkpoint import (
    FORMAT,
    load_checkpoint,
    load_plain,
    load_weights,
    save_safetensors,
)
from firstlight.weights.checkpoint import (
    Checkpoint as StoredCheckpoint,
)
from firstlight.weights.find import CHECKPOINTS, find_checkpoint


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
    callbacks: dict[str, Callback] | None = None,
    logger: dict[str, Callable[..., Logger]] | None = None,
    init_from: NonEmpty | None = None,
    resume: NonEmpty | None = None,
) -> Fitted:
    """Train as `conf/train.yaml`, whose keys are these arguments, says.

    `config` and `overrides` are kept with the run, and in its checkpoints. With `resume` the run in that folder goes
    on where its last checkpoint is; otherwise `output_dir` becomes the folder (with a number if it is taken).

    Raises:
        ConfigError: something the user can put right; nothing has been written then.
        DivergedError: a gradient was not finite; the last checkpoint is from before.
    """
    quiet()
    last = find_checkpoint(resume, best=False, key="resume") if resume else None
    start = load_checkpoint(find_checkpoint(init_from, key="init_from")) if init_from and last is None else None
    adoption = ""
    if last is not None:
        tokenizer = load_checkpoint(last).build_tokenizer()
    elif start is not None:
        tokenizer, started = start.build_tokenizer(), started_config(config, start, overrides)
        adoption = adopted(config, started, start)
        config, model = started, build(started["model"])
    text = _section("data", lambda: data(tokenizer=tokenizer, order=order))
    _section("data", text.setup)
    network = _network(model, text, seed, start)
    if start is not None and shared_run_folder() is None:  # once, and not if the start was refused
        _note(adoption)
    del start  # its weights are the network's now
    watchers = list((callbacks or {}).values())
    for sampler in (c for c in watchers if isinstance(c, SampleGeneration)):
        _section("callbacks.sample_generation.decoding", lambda sampler=sampler: sampler.check(network))
    step = _check_run(network, text, optimizer, scheduler, trainer, last)
    if last is not None:
        _check_not_stopped(last, watchers)

    if last is None:
        folder = shared_run_folder() or create_run_folder(Path(output_dir), config=config, overrides=overrides)
    else:
        folder = last.parents[1]
        for name, (was, now) in update_run_folder(folder, config=config, overrides=overrides).items():
            _note(f"{name} was {was} when the run began and is {now} now: its numbers may differ in the last bits")
    purge = {"purge_step": step + 1} if last is not None else {}
    runner = trainer(
        data=text,
        logger=[make(save_dir=str(folder), **purge) for make in (logger or {}).values()],
        callbacks=watchers,
        default_root_dir=str(folder),
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in watchers),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in watchers),
    )
    module = PretrainingModule(model=network, data=text, optimizer=optimizer, scheduler=scheduler, config=config)
    _run(runner, module, folder, last)
    return Fitted(folder, module.metrics, runner.global_step)


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
    scheduler: Schedule,
    trainer: Callable[..., Trainer],
    last: Path | None,
) -> int:
    """The step at which the run begins, once everything that can be refused before it has been tried."""
    planned = _section("trainer", lambda: trainer(data=data, logger=False, enable_checkpointing=False, callbacks=[]))
    peak = _section("optimizer", lambda: float(optimizer(model).param_groups[0]["lr"]))
    _section("scheduler", lambda: scheduler.check(max_steps=planned.max_steps, peak=peak))
    if last is None:
        return 0
    step = _check_resumable(last, data, planned)
    was = load_plain(last)["lr_schedulers"][0]["_last_lr"][0]
    now = scheduler.lr(step, max_steps=planned.max_steps, peak=peak)
    if not math.isclose(was, now, rel_tol=1e-6):
        _note(f"the schedule is another one now: the learning rate goes from {was:.3g} to {now:.3g} at step {step}")
    return step


def _run(trainer: Trainer, module: PretrainingModule, folder: Path, last: Path | None) -> None:
    """Train, say how it went, and keep the best weights."""
    console, is_first = Console(highlight=False, soft_wrap=True), trainer.is_global_zero
    if is_first:
        console.print(report.opening(folder, module.model, module.data, trainer))
        for logger in trainer.loggers if last is None else ():
            logger.log_hyperparams(module.config)
    try:
        trainer.fit(module, datamodule=module.data, ckpt_path=last, weights_only=True)
    except SystemExit:  # Lightning's way to leave after Ctrl-C
        if trainer.interrupted and is_first:
            console.print(report.interrupted(folder, trainer))
            raise SystemExit(130) from None
        raise
    if not math.isfinite(module.metrics.get("val/loss", math.nan)) or trainer.global_step == 0:
        raise DivergedError(f"the run ended after step {trainer.global_step} without a finite validation loss")
    if is_first:
        model, best = module.model.cpu(), folder / CHECKPOINTS / "best.ckpt"
        if best.is_file():
            load_weights(model, load_checkpoint(best))
        state = module.data.tokenizer.state_dict()
        save_safetensors(model, folder / "model.safetensors", config=module.config, tokenizer=state)
        console.print(report.closing(folder, module, trainer))


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


def _check_not_stopped(last: Path, callbacks: list[Callback]) -> None:
    saved = load_plain(last)
    for stopping in (c for c in callbacks if isinstance(c, EarlyStopping)):
        state = saved["callbacks"].get(stopping.state_key, {})
        if state.get("wait_count", 0) >= stopping.patience:
            raise ConfigError(
                f"resume: the run in {last.parents[1]} was stopped early, at step {saved['global_step']}; raise "
                "callbacks.early_stopping.patience to go on, or take it away with '~callbacks.early_stopping'"
            )


def _note(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"note: {text}")


def _check_resumable(last: Path, data: TextDataModule, planned: Trainer) -> int:
    """The step at which `last` was saved, if this run can go on from there."""
    saved = load_plain(last)
    if not data.order.resumable:
        raise ConfigError(
            "resume: a run with order=book cannot be continued: its place is the state of torch's global generator"
        )
    if saved.get("firstlight", {}).get("format") != FORMAT:
        raise ConfigError(f"resume: {last} is no checkpoint of this version of firstlight")
    now = data.fingerprint()
    for key, was in saved["firstlight"]["fingerprint"].items():
        if now[key] != was:
            change = f"{key} was {str(was)[:12]}, is {str(now[key])[:12]}"
            raise ConfigError(f"resume: the data has changed since {last} was saved: {change}")
    step = int(saved["global_step"])
    if step >= planned.max_steps:
        raise ConfigError(
            f"resume: the run in {last.parents[1]} is finished ({step} of {planned.max_steps} steps); "
            "to train longer, raise trainer.max_steps"
        )
    return step
