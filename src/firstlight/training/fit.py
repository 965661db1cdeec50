"""Train one model: everything is checked first, then the run folder is made, then training begins."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console
from rich.filesize import decimal

from firstlight.config import NonEmpty, Seed, blame
from firstlight.data.datamodule import TextDataModule
from firstlight.data.order import Order
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, DivergedError
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule
from firstlight.training.module import OptimizerFactory, PretrainingModule
from firstlight.training.run_folder import create_run_folder, shared_run_folder
from firstlight.training.trainer import Trainer, refusal
from firstlight.weights.checkpoint import FORMAT, load_checkpoint, load_plain, load_weights, save_safetensors
from firstlight.weights.find import CHECKPOINTS, find_checkpoint


@dataclass(frozen=True)
class Fitted:
    """What a run came to."""

    folder: Path
    metrics: dict[str, float]
    steps: int


def fit(
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
    config: dict[str, Any] | None = None,
    overrides: list[str] | None = None,
) -> Fitted:
    """Train as `conf/train.yaml`, whose keys are these arguments, says.

    `config` and `overrides` are kept with the run, and in its checkpoints. With `resume` the run in that folder goes
    on where its last checkpoint is; otherwise `output_dir` becomes the folder (with a number if it is taken).

    Raises:
        ConfigError: something the user can put right; nothing has been written then.
        DivergedError: a gradient was not finite; the last checkpoint is from before.
    """
    config = config or {}
    last = find_checkpoint(resume, best=False) if resume else None
    start = load_checkpoint(find_checkpoint(init_from)) if init_from and last is None else None

    text = _section("data", lambda: data(tokenizer=tokenizer, order=order))
    _section("data", text.setup)
    pl.seed_everything(seed, workers=True, verbose=False)
    network = _section("model", model)
    _check_model(network, text)
    if start is not None:
        load_weights(network, start)
    planned = _section("trainer", lambda: trainer(data=text, logger=False, enable_checkpointing=False, callbacks=[]))
    peak = _section("optimizer", lambda: float(optimizer(network).param_groups[0]["lr"]))
    _section("scheduler", lambda: scheduler.check(max_steps=planned.max_steps, peak=peak))

    if last is None:
        folder = shared_run_folder() or create_run_folder(Path(output_dir), config=config, overrides=overrides or [])
        loggers = [make(save_dir=str(folder)) for make in (logger or {}).values()]
    else:
        folder, step = last.parents[1], _check_resumable(last, text, planned)
        loggers = [make(save_dir=str(folder), purge_step=step + 1) for make in (logger or {}).values()]

    watchers = list((callbacks or {}).values())
    module = PretrainingModule(model=network, data=text, optimizer=optimizer, scheduler=scheduler, config=config)
    runner = trainer(
        data=text,
        logger=loggers,
        callbacks=watchers,
        default_root_dir=str(folder),
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in watchers),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in watchers),
    )
    console = Console(highlight=False, soft_wrap=True)
    if runner.is_global_zero:
        console.print(_opening(folder, network, text, runner))
        if last is None:
            for each in loggers:
                each.log_hyperparams(config)
    runner.fit(module, datamodule=text, ckpt_path=last, weights_only=True)
    if not math.isfinite(module.metrics.get("val/loss", math.nan)) or runner.global_step == 0:
        raise DivergedError(f"the run ended after step {runner.global_step} without a finite validation loss")

    if runner.is_global_zero:
        best = folder / CHECKPOINTS / "best.ckpt"
        if best.is_file():
            load_weights(network.cpu(), load_checkpoint(best))
        save_safetensors(network, folder / "model.safetensors", config=config, tokenizer=text.tokenizer.state_dict())
        console.print(_closing(folder, module, runner))
    return Fitted(folder, module.metrics, runner.global_step)


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


def _check_model(model: LanguageModel, data: TextDataModule) -> None:
    used = data.tokenizer.encoding.n_vocab
    if model.vocab_size < used:
        raise ConfigError(f"model.vocab_size ({model.vocab_size}) must be at least {used}, the ids of the tokenizer")
    if data.context_length > model.context_length:
        raise ConfigError(
            f"data.context_length ({data.context_length}) must not be above the model's ({model.context_length})"
        )


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
            raise ConfigError(f"resume: the data has changed since {last} was saved: {key} was {was}, is {now[key]}")
    step = int(saved["global_step"])
    if step >= planned.max_steps:
        raise ConfigError(
            f"resume: the run in {last.parents[1]} is finished ({step} of {planned.max_steps} steps); "
            "to train longer, raise trainer.max_steps"
        )
    return step


def _opening(folder: Path, model: LanguageModel, data: TextDataModule, trainer: Trainer) -> str:
    # Weights, gradients and AdamW's two moments, in float32; activations come on top.
    memory = decimal(model.n_parameters * 4 * 4)
    device = trainer.strategy.root_device
    return (
        f"run    {folder}\n"
        f"model  {type(model).__name__}, {model.n_parameters:,} parameters ({memory} to train, activations apart)\n"
        f"data   {data.tokenizer.encoding.name} tokenizer, {data.tokenizer.encoding.n_vocab:,} ids\n"
        + "".join(f"       {line}\n" for line in data.summary().splitlines())
        + f"train  {trainer.max_steps:,} steps of {data.batch_size} x {data.context_length} tokens"
        f"{f' x {n}' if (n := trainer.accumulate_grad_batches) > 1 else ''}"
        f" ({trainer.max_steps * trainer.accumulate_grad_batches / data.batches_per_epoch:.1f} epochs), {device},"
        f" {trainer.precision}, {torch.get_num_threads()} threads"
    )


def _closing(folder: Path, module: PretrainingModule, trainer: Trainer) -> str:
    m = module.metrics
    return (
        f"\ndone: {trainer.global_step} steps, training loss {m['train/loss']:.3f}, "
        f"validation loss {m['val/loss']:.3f}, perplexity {m['val/perplexity']:.1f}\n"
        f"run folder:   {folder}\n"
        f'sample:       firstlight generate checkpoint={shlex.quote(str(folder))} prompt="..."\n'
        f"TensorBoard:  tensorboard --logdir {shlex.quote(str(folder))}"
    )
