"""What a run says of itself when it begins, when it is interrupted, and when it is done."""

import math
from contextlib import suppress
from pathlib import Path

import torch
from rich.filesize import decimal

from firstlight.checkpoints.find import checkpoints_of
from firstlight.data.leakage import Leakage
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import counted, duration, printable
from firstlight.metrics.perplexity import perplexity_text
from firstlight.overrides import command, named, setting
from firstlight.processes import trial
from firstlight.runs.run_folder import CONFIG, METRICS, MODEL, RunFolder
from firstlight.training.callbacks.base import Callback
from firstlight.training.final_score import CONFIDENCE, FinalScore
from firstlight.training.forecast import Forecast
from firstlight.training.memory.micro_batches import parts_of_a_share
from firstlight.training.module import PretrainingModule
from firstlight.training.plan import Plan
from firstlight.training.trainer import Trainer


def opening(plan: Plan, told: Forecast) -> str:
    """The run's folder, model, data and length, its plan, and what is probably wrong with it."""
    model, data, trainer = plan.network, plan.data, plan.trainer
    # Weights, gradients and the optimizer's state, in float32; activations come on top.
    memory = decimal(4 * (model.n_parameters + model.n_trained + plan.sizes.n_optimizer))
    device, encoding = trainer.strategy.root_device, data.tokenizer.encoding
    return (
        f"run    {printable(str(trainer.folder))}\nmodel  {type(model).__name__},"
        f" {as_said(model.n_parameters)} parameters{_trained(plan)} ({memory} to train, activations"
        " apart)\ndata  "
        f" {type(data).__name__}, {encoding.name} tokenizer, {encoding.n_vocab:,} ids\n"
        + "".join(f"       {line}\n" for line in data.summary().splitlines())
        + ("" if told.leakage is None else f"       {leaked(told.leakage)}\n")
        + f"train  {trainer.max_steps:,} steps of {data.batch_size} x {data.context_length} tokens"
        f"{f' x {n}' if (n := trainer.accumulate_grad_batches) > 1 else ''}"
        f"{_in_parts(trainer)}"
        f" ({_length(data, trainer.clock.total_batches)}), {device},"
        f" {trainer.precision}, CPU threads: {torch.get_num_threads()}\n"
        f"plan   {essence(told)}" + "".join(f"\n       {line}" for line in cautions(told))
    )


def cautions(told: Forecast) -> list[str]:
    """What is probably wrong with a run, or of what its size alone is the reason."""
    if not told.is_small:
        return [f"warning: {warning}" for warning in told.warnings]
    lines = [f"warning: {warning}" for warning in told.warnings if warning not in told.of_size]
    if told.of_size:
        lines.append(
            "note: a run this small shows how training works, not how good a model can become"
            " (firstlight plan says more)"
        )
    return lines


def essence(told: Forecast) -> str:
    """A run's plan in a line; `firstlight plan` says more."""
    parts = [f"{short(told.tokens_per_parameter)} tokens a parameter"]
    if told.flops is not None:
        parts.append(f"{flops(told.flops / told.steps)} a step, {flops(told.flops)} in all")
    for name, phase in (("warm-up", told.warmup), ("decay", told.decay)):
        if phase.steps > 0:
            parts.append(f"{name} {counted(phase.steps, 'step')} ({phase.share:.0%})")
    parts.append(
        f"{counted(told.evaluations, 'evaluation')} of"
        f" {counted(told.validation_windows, 'window')} ({told.evaluation_share:.0%} of the work)"
    )
    disk = f"checkpoints {decimal(told.checkpoint_bytes)}"
    if told.free_bytes is not None:
        disk += f" of {decimal(told.free_bytes)} free"
    return ", ".join([*parts, disk])


def leaked(leakage: Leakage) -> str:
    """What of validation stands in training, in a line."""
    never = f"{leakage.never_share:.1%} of its tokens are never trained on"
    if leakage.share is None:
        return f"of validation {never}"
    sampled = "" if leakage.every == 1 else f" (of {leakage.n_grams:,} that were looked for)"
    return (
        f"of validation {leakage.share:.1%} of the {leakage.n}-grams{sampled} stand in training;"
        f" {never}"
    )


def short(number: float) -> str:
    """A number in three digits: 0.0123, 4.56, 789, 12k, 3.45M."""
    for limit, divisor, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= limit:
            return f"{number / divisor:.3g}{letter}"
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def as_said(number: int) -> str:
    """A number of parameters as people say it: 512, 85k, 2.2M, 124M, 1.6B."""
    for limit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            digits = f"{number / limit:.1f}" if number < 10 * limit else f"{number / limit:.0f}"
            return f"{digits.removesuffix('.0')}{letter}"
    return str(number)


def flops(number: float) -> str:
    """Floating-point operations in three digits: 13.9 GFLOPs, 8.33 TFLOPs."""
    for exponent, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if number >= 10**exponent:
            return f"{number / 10**exponent:.3g} {prefix}FLOPs"
    return f"{number:.3g} FLOPs"


def _trained(plan: Plan) -> str:
    """How many of the parameters train, and what decides their rates, where that is not all."""
    parts: list[str] = []
    if plan.network.n_trained < plan.network.n_parameters:
        parts.append(f", {as_said(plan.network.n_trained)} of them trained")
    for factor, n in plan.rates.items():
        parts.append(f", {as_said(n)} at {factor:g} of the learning rate")
    if plan.parametrization:
        parts.append(f", {plan.parametrization}")
    return "".join(parts)


def _length(data: TokenDataModule, batches: int) -> str:
    """A number of batches in epochs and, where windows overlap, in passes over the text."""
    epochs = _rounded(batches / data.batches_per_epoch)
    if data.stride == data.context_length:
        return f"{epochs} epochs"
    return (
        f"{epochs} epochs of windows = {_rounded(data.passes_after(batches))} passes over the text"
    )


def _rounded(number: float) -> str:
    """A number with one decimal from 1 on, and with two significant digits below."""
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def _in_parts(trainer: Trainer) -> str:
    n_parts, _ = parts_of_a_share(trainer)
    return f" in {n_parts} parts" if n_parts > 1 else ""


def whereabouts(folder: Path) -> str:
    """The checkpoint from which a run that did not end can be resumed, and the command."""
    saved = checkpoints_of(folder)
    if not saved:
        return f"no checkpoint was saved yet in {printable(str(folder))}"
    # From the name, without reading the checkpoint: the run may have ended because the disk did.
    step = int(saved[-1].name.removeprefix("step_"))
    again = command("train", setting("resume", str(folder)))
    return f"the newest checkpoint is that of step {step}; resume with:\n{again}"


def closing(
    plan: Plan,
    module: PretrainingModule,
    final: FinalScore | None,
    seconds: float,
    resumed_at: int | None,
) -> str:
    """What a run came to in `seconds`, why it ended, and what to do with it.

    `resumed_at` is the step from which it was resumed; None: it was not.
    """
    trainer, m = plan.trainer, module.metrics
    folder = trainer.folder
    # The commands to paste are written for this shell: with the path of an environment that is not
    # activated.
    todo = [
        f"run folder:   {printable(str(folder))}",
        f"sample:       {command('generate', setting('checkpoint', str(folder)))} prompt='...'",
    ]
    if (other := finished_beside(folder)) is not None:
        pair = (named("runs", str(run)) for run in (other, folder))
        todo.append(f"compare:      {command('compare', *pair)}")
    todo.append(f"TensorBoard:  {command('board', setting('folder', str(folder)))}")
    since = "" if resumed_at is None else f" since it was resumed at step {resumed_at:,}"
    lines = [
        f"\ndone: {counted(trainer.global_step, 'step')} in {duration(seconds)}{since}:"
        f" {_why_ended(plan)}",
        f"last: training loss {m['train/loss']:.3f}, validation loss {m['val/loss']:.3f},"
        f" perplexity {perplexity_text(m['val/loss'])}",
    ]
    if (best := trainer.failures.attempt(METRICS, best_loss, folder)) is not None:
        lines.append(f"best: validation loss {best[0]:.3f} at step {best[1]:,}")
    if final is not None:
        lines.append(headline(final))
    return "\n".join([*lines, *todo])


def _why_ended(plan: Plan) -> str:
    trainer, section = plan.trainer, plan.config["trainer"]
    if trainer.global_step < trainer.max_steps:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            reason = callback.why_stopped() if isinstance(callback, Callback) else None
            if reason is not None:
                return reason
        return "a callback has ended it"
    for key in ("max_steps", "max_epochs", "max_tokens"):
        if section.get(key) is not None:
            return f"all of trainer.{key}={section[key]}"
    return "all of them"


def best_loss(folder: Path) -> tuple[float, int] | None:
    """The lowest validation loss of a run, and its step; None if metrics.csv has none.

    Raises:
        ValueError, OSError: see `RunFolder.rows`.
    """
    found: list[tuple[float, int]] = []
    for row in RunFolder(folder).rows:
        if row.get("val/loss"):
            found.append((float(row["val/loss"]), int(row["step"])))
    finite = [pair for pair in found if math.isfinite(pair[0])]
    return min(finite, default=None)


def finished_beside(folder: Path) -> Path | None:
    """The run beside `folder` that was finished last; None if it has none, or is a sweep's."""
    if trial() is not None:
        return None
    finished: list[tuple[float, Path]] = []
    for file in folder.parent.glob(f"*/{MODEL}"):
        # Others may be removing it: a run that is done does not fail for it.
        with suppress(OSError):
            if file.parent != folder and (file.parent / CONFIG).is_file():
                finished.append((file.stat().st_mtime, file.parent))
    return max(finished)[1] if finished else None


def headline(final: FinalScore) -> str:
    """What the test split says of the run, with its error."""
    loss, interval = final.metrics["test/loss"], final.interval
    error = ""
    if interval is not None:
        margin = interval.high - interval.mean
        error = f" +- {margin:.3f} ({CONFIDENCE:.0%}, by how the text varies)"
    which = "best" if final.is_best else "last"
    return f"test loss {loss:.3f}{error}, with the {which} weights (step {final.step})"
