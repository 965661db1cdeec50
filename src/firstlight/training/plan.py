"""All checks of a run, made before its folder is made and before it trains."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.config import argument, blame
from firstlight.data.files import MissingFileError, user_path
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import ConfigError, FinishedError, counted
from firstlight.loss.base import Loss, losses_of
from firstlight.metrics.measured import check_monitors
from firstlight.model.base import LanguageModel
from firstlight.model.construction import (
    Outline,
    check_made_again,
    outline_of,
    without_weights,
)
from firstlight.model.contract import check_attributes, check_shapes, hidden_of_shapes
from firstlight.optim.base import check_rates_of
from firstlight.optim.by_name import rates
from firstlight.processes import shared_run_folder
from firstlight.runs.places import MOVED
from firstlight.runs.run_folder import RunFolder
from firstlight.training.activation_checkpointing import checkpoint_activations
from firstlight.training.callbacks.base import Callback
from firstlight.training.disk import DiskNeeds, check_place, disk_needs
from firstlight.training.experiment import Experiment
from firstlight.training.memory.estimate import Sizes, check_memory, sizes_of
from firstlight.training.memory.micro_batches import find_micro_batch_size
from firstlight.training.next_token import check_fits
from firstlight.training.origin import Origin
from firstlight.training.precision import precision_notes, resolve_precision
from firstlight.training.resume import check_resumable
from firstlight.training.same_text import check_text_of_sweep
from firstlight.training.start import load_start
from firstlight.training.trainer import Trainer, refusal


@dataclass(frozen=True)
class Plan:
    """A run that has passed every check: its parts, made once."""

    config: dict[str, Any]
    """As it is stored, with a value instead of every "auto"."""
    network: LanguageModel
    """With its first weights."""
    data: TokenDataModule
    trainer: Trainer
    sizes: Sizes
    ended: str | None
    """Why a resumed run has no step left; None if it has one."""
    notes: list[str]
    """What the user should know."""
    rates: dict[float, int]
    """How many numbers train at a factor of the learning rate other than 1."""
    make_model: Callable[[], LanguageModel]
    """Makes the network, with weights that are drawn anew."""
    parametrization: str = ""
    """What is done to it by its width, in words; "": nothing."""
    disk: DiskNeeds = field(default_factory=DiskNeeds)


def prepare(
    experiment: Experiment,
    origin: Origin,
    siblings: Sequence[Path] = (),
    *,
    with_weights: bool = True,
    is_here: bool = True,
) -> Plan:
    """Make the parts of a run, except its folder and what is written there.

    `siblings` are the other runs of its sweep. Without weights the network has shapes alone, and
    a `micro_batch_size` of auto stays: such a plan is to be looked at, not to be trained. Unless
    `is_here`, memory and disk of this machine do not matter.

    Raises:
        ConfigError: something the user can put right.
        FinishedError: the run that is resumed has ended.
    """
    _check_loggers(experiment)
    model = _as_shapes(experiment, origin)
    data = _read(experiment, origin)
    if origin.resumed is None:
        check_text_of_sweep(data, origin.config, siblings)
    if is_here:
        with blaming("model"):
            section = origin.config["trainer"] | {"precision": model.precision}
            check_memory(model.sizes, data, section)
    check_fits(model.shapes, data)
    network = model.shapes
    if with_weights:
        network = _network(model, experiment.seed, origin.weights)
    # The trainer knows the length of the run, which the checks below need.
    callbacks = experiment.all_callbacks
    check_monitors(callbacks, experiment.measured)
    trainer = _trainer(experiment, data, network, list(callbacks.values()), model.precision)
    if trainer.is_sharded:
        _check_sharded(experiment, model.sizes)
    ended = _check_resumed(origin, data, trainer, callbacks)
    with blaming("scheduler"):
        check_rates_of(experiment.scheduler, max_steps=trainer.max_steps, peak=model.sizes.peak_lr)
    scaling = experiment.parametrization
    # Callbacks and the disk are checked against the whole plan.
    plan = Plan(
        config=origin.config,
        network=network,
        data=data,
        trainer=trainer,
        sizes=model.sizes,
        ended=ended,
        notes=[*filter(None, [origin.note]), *data.notes, *precision_notes(model.precision)],
        rates=rates(network, experiment.lr_scale),
        make_model=model.make,
        parametrization="" if scaling is None else scaling.describe(network),
    )
    _check_callbacks(callbacks, plan)
    place = origin.folder or user_path(experiment.output_dir)
    plan = replace(plan, disk=disk_needs(place, plan, callbacks))
    if is_here and origin.folder is None and shared_run_folder() is None:
        check_place(place, plan.disk)
    # Last, because it trains a little to find out: whatever else is wrong is refused in seconds.
    return _without_auto(plan, experiment, model.precision, with_weights=with_weights)


@dataclass(frozen=True)
class _Shapes:
    """The model without memory for its weights, and what follows from it alone."""

    precision: str
    make: Callable[[], LanguageModel]
    shapes: LanguageModel
    outline: Outline
    """Its tensors by name, as it was made the first time."""
    sizes: Sizes


def _as_shapes(experiment: Experiment, origin: Origin) -> _Shapes:
    """The model as shapes: one that cannot fit must not be allocated to find that out."""
    section = origin.config["trainer"]
    with blaming("model"):
        precision = resolve_precision(
            argument(section, "precision"), argument(section, "accelerator")
        )
        make = experiment.network_of(origin.model)
        shapes = without_weights(make)
        outline = outline_of(shapes)
        check_attributes(shapes)
        _check_pass(shapes, experiment.training_loss)
        sizes = sizes_of(shapes, experiment.optimizer_by_name, precision)
    return _Shapes(precision, make, shapes, outline, sizes)


def _without_auto(
    plan: Plan, experiment: Experiment, precision: str, *, with_weights: bool
) -> Plan:
    """The plan with a value for every "auto": on another machine it may mean something else."""
    section = plan.config["trainer"]
    found: dict[str, Any] = {}
    if argument(section, "precision") == "auto":
        found["precision"] = precision
    if argument(section, "micro_batch_size") == "auto" and with_weights:
        found["micro_batch_size"] = _micro_batch_size(experiment, plan.network, plan.trainer)
        plan.trainer.micro_batch_size = found["micro_batch_size"]
    return replace(plan, config=plan.config | {"trainer": section | found})


@contextmanager
def blaming(key: str) -> Iterator[None]:
    """Report what is refused inside as a mistake in the section `key` of the config."""
    try:
        yield
    except Exception as error:
        if words := refusal(error, "trainer.accelerator"):
            raise ConfigError(f"{key}: {words}") from error
        if isinstance(error, ValueError | TypeError | OSError):
            raise blame(key, error) from error
        raise


def _check_callbacks(callbacks: dict[str, pl.Callback], plan: Plan) -> None:
    for key, callback in callbacks.items():
        if isinstance(callback, Callback):
            with blaming(key):
                callback.check(plan)


def _trainer(
    experiment: Experiment,
    data: TokenDataModule,
    network: LanguageModel,
    callbacks: list[pl.Callback],
    precision: str,
) -> Trainer:
    with blaming("trainer"):
        trainer = experiment.trainer(
            data=data, logger=False, callbacks=callbacks, precision=precision
        )
        if trainer.activation_checkpointing:
            checkpoint_activations(network)
    return trainer


def _check_sharded(experiment: Experiment, sizes: Sizes) -> None:
    """Refuse what does not work where each process has only a part of the weights.

    Raises:
        ConfigError: which.
    """
    if experiment.compile:
        raise ConfigError("compile: does not work with trainer.strategy=fsdp2; leave it out")
    if not sizes.is_elementwise:
        raise ConfigError(
            "optimizer: its update needs a whole matrix, of which a process has a part with"
            " trainer.strategy=fsdp2; take optimizer=adamw, or strategy=ddp"
        )


def _check_loggers(experiment: Experiment) -> None:
    # A logger's constructor writes nothing, but finds that its package is missing.
    for name, make in (experiment.logger or {}).items():
        with blaming(f"logger.{name}"):
            make(save_dir=experiment.output_dir)


def _check_resumed(
    origin: Origin, data: TokenDataModule, trainer: Trainer, callbacks: dict[str, pl.Callback]
) -> str | None:
    """Refuse to resume a run that has changed or is finished; return why it has no step left.

    A run without `model.safetensors` was killed while it ended: its end is then made again.

    Raises:
        ConfigError: see `check_resumable`.
        FinishedError: nothing is left to do.
    """
    if origin.resumed is None:
        return None
    check_resumable(origin.resumed, data)
    ended = why_ended(origin, trainer, callbacks)
    if ended is not None and RunFolder(origin.resumed.run).is_finished:
        raise FinishedError(f"resume: {ended}")
    return ended


def why_ended(origin: Origin, trainer: Trainer, callbacks: dict[str, pl.Callback]) -> str | None:
    """Why a run that is resumed has no step left, and how to change that; None if it has one.

    Raises:
        FinishedError: it has made more steps than it is to make now.
    """
    resumed = origin.resumed
    assert resumed is not None
    longer = "to train longer, raise trainer.max_steps"
    if resumed.step > trainer.max_steps:
        raise FinishedError(
            f"resume: the run in {resumed.run} has made {counted(resumed.step, 'step')}, more than"
            f" the {trainer.max_steps} that it is to make; {longer}"
        )
    if resumed.step == trainer.max_steps:
        return (
            f"the run in {resumed.run} is finished ({resumed.step} of {trainer.max_steps} steps);"
            f" {longer}"
        )
    for callback in callbacks.values():
        if not isinstance(callback, Callback):
            continue
        reason = callback.why_ended(resumed.state["callbacks"].get(callback.state_key, {}))
        if reason is not None:
            return f"the run in {resumed.run}, at step {resumed.step}, {reason}"
    return None


def _check_pass(shapes: LanguageModel, loss: Loss) -> None:
    """Refuse a model or a loss that returns another shape than it should.

    `shapes` has no memory for its weights. What cannot be found out from it the first step finds.

    Raises:
        ValueError: it is such a model or loss.
    """
    passed = hidden_of_shapes(shapes)
    if passed is None:
        return
    ids, hidden = passed
    check_shapes(shapes, ids, hidden)
    try:
        with torch.no_grad():
            losses_of(loss, hidden.flatten(0, 1), shapes.output_weight, ids.flatten())
    except ConfigError:
        raise
    except Exception:  # it looks at numbers, or has tensors of its own
        return


def _read(experiment: Experiment, origin: Origin) -> TokenDataModule:
    try:
        with blaming("data"):
            data = experiment.data(tokenizer=origin.tokenizer, order=experiment.order)
            data.setup()
    except ConfigError as error:
        if origin.folder is not None and isinstance(error.__cause__, MissingFileError):
            raise ConfigError(f"{error}{MOVED}") from error
        raise
    return data


def _network(
    model: _Shapes,
    seed: int,
    weights: Checkpoint | None,
) -> LanguageModel:
    """The model with its first weights: drawn from `seed`, or those of a checkpoint."""
    # Right before the weights are drawn, so that nothing which came earlier decides them.
    pl.seed_everything(seed, workers=True, verbose=False)
    with blaming("model"):
        network = model.make() if weights is None else without_weights(model.make)
    if weights is not None:
        load_start(network, weights)
    # A model that is made differently the second time could not be loaded once it is trained.
    with blaming("model"):
        check_made_again(model.outline, network)
    return network


def _micro_batch_size(experiment: Experiment, network: LanguageModel, trainer: Trainer) -> int:
    """What the first process of this run finds, and the others read in its folder."""
    folder = shared_run_folder()
    if folder is not None:
        return int(RunFolder(folder).config["trainer"]["micro_batch_size"])
    return find_micro_batch_size(
        network, trainer.clock.data, experiment.training_loss, experiment.optimizer_by_name, trainer
    )
