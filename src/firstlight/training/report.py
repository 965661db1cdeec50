"""What a run says of itself when it begins, when it is interrupted, and when it is done."""

from pathlib import Path

import torch
from rich.filesize import decimal

from firstlight.checkpoints.find import checkpoints_of
from firstlight.data.leakage import Leakage
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import counted, printable, shell_word
from firstlight.metrics.perplexity import perplexity_text
from firstlight.overrides import command, program, setting
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
        f" {model.n_parameters:,} parameters{_trained(plan)} ({memory} to train, activations"
        " apart)\ndata  "
        f" {type(data).__name__}, {encoding.name} tokenizer, {encoding.n_vocab:,} ids\n"
        + "".join(f"       {line}\n" for line in data.summary().splitlines())
        + ("" if told.leakage is None else f"       {leaked(told.leakage)}\n")
        + f"train  {trainer.max_steps:,} steps of {data.batch_size} x {data.context_length} tokens"
        f"{f' x {n}' if (n := trainer.accumulate_grad_batches) > 1 else ''}"
        f"{_in_parts(trainer)}"
        f" ({_length(data, trainer.clock.total_batches)}), {device},"
        f" {trainer.precision}, CPU threads: {torch.get_num_threads()}\n"
        f"plan   {essence(told)}"
        + "".join(f"\n       warning: {warning}" for warning in told.warnings)
    )


def essence(told: Forecast) -> str:
    """A run's plan in a line; `firstlight plan` says more."""
    parts = [f"{short(told.tokens_per_parameter)} tokens a parameter"]
    if told.flops is not None:
        parts.append(f"{told.flops:.2g} FLOPs")
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


def _trained(plan: Plan) -> str:
    """How many of the parameters train, and what decides their rates, where that is not all."""
    parts: list[str] = []
    if plan.network.n_trained < plan.network.n_parameters:
        parts.append(f", {plan.network.n_trained:,} of them trained")
    for factor, n in plan.rates.items():
        parts.append(f", {n:,} at {factor:g} of the learning rate")
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
    folder: Path, module: PretrainingModule, trainer: Trainer, final: FinalScore | None
) -> str:
    """The last losses, and what to do with the run."""
    # The commands to paste are written for this shell: with the path of an environment that is not
    # activated.
    m, sample = module.metrics, command("generate", setting("checkpoint", str(folder)))
    return (
        f"\ndone: {counted(trainer.global_step, 'step')}, training loss {m['train/loss']:.3f}, "
        f"validation loss {m['val/loss']:.3f}, perplexity {perplexity_text(m['val/loss'])}\n"
        f"{'' if final is None else headline(final)}"
        f"run folder:   {printable(str(folder))}\n"
        f"sample:       {sample} prompt='...'\n"
        f"TensorBoard:  {program('tensorboard')} {shell_word(f'--logdir={folder}')}"
    )


def headline(final: FinalScore) -> str:
    """What the test split says of the run, with its error."""
    loss, interval = final.metrics["test/loss"], final.interval
    error = ""
    if interval is not None:
        margin = interval.high - interval.mean
        error = f" +- {margin:.3f} ({CONFIDENCE:.0%}, by how the text varies)"
    which = "best" if final.is_best else "last"
    return f"test loss {loss:.3f}{error}, with the {which} weights (step {final.step})\n"
