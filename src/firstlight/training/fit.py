"""Train one model: where it comes from, what can be refused, its folder, its training, its end."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from firstlight.checkpoints.find import CHECKPOINTS
from firstlight.checkpoints.folder_io import clear_unfinished
from firstlight.data.files import user_path
from firstlight.data.loader import end_workers
from firstlight.output import note, tell
from firstlight.processes import is_further, shared_run_folder, sharing, was_launched
from firstlight.runs.chosen import CHOSEN, chosen_names
from firstlight.runs.run_folder import AUTO, MODEL, RunFolder
from firstlight.runs.writer import new_run_folder, nobody, update_run_folder
from firstlight.training import report
from firstlight.training.ending import check_trained, explained_end, keep_best
from firstlight.training.experiment import Experiment
from firstlight.training.final_score import FinalScore, score
from firstlight.training.forecast import forecast
from firstlight.training.lightning import after_loop, end_before_training
from firstlight.training.module import PretrainingModule
from firstlight.training.origin import Origin, find_origin
from firstlight.training.peers import Peers
from firstlight.training.plan import Plan, blaming, prepare
from firstlight.training.profiling import Report
from firstlight.training.resume import change_of_rate
from firstlight.training.trainer import Trainer, quiet


@dataclass(frozen=True)
class Fitted:
    """What a run came to."""

    folder: Path
    metrics: dict[str, float]
    steps: int


def fit(
    experiment: Experiment,
    config: dict[str, Any],
    overrides: list[str],
    siblings: Sequence[Path] = (),
    peers: Peers | None = None,
) -> Fitted:
    """Train `experiment`; `config`, which it was built from, and `overrides` are kept with the run.

    `siblings` are the other runs of its sweep, which have the same text; `peers` are the processes
    of a run of several.

    With `resume` the run in that folder is resumed from its newest whole checkpoint; otherwise
    `output_dir` becomes the folder (with a number if it is taken, unless `resume` is "auto", by
    which the same command is to find it again).

    Raises:
        ConfigError: something that the user can correct; nothing has been written.
        RunError: a loss or a gradient is not finite, or a checkpoint cannot be written; earlier
            checkpoints are whole.
        Stopped: a signal has stopped the run; as SystemExit with the code 128 + its number.
    """
    quiet()
    began = time.monotonic()
    with ExitStack() as held:  # the run folder, until all is done
        origin = find_origin(experiment, config, overrides, held)
        plan = prepare(experiment, origin, siblings)
        origin = _without_weights(origin, plan.trainer)
        if not is_further():  # the others would say the same again
            for text in plan.notes:
                note(text)
        folder = held.enter_context(_run_folder(experiment, origin, plan, overrides, peers))
        if peers is not None:
            # How far this process is, the others learn from its heartbeat. One that waits for ever
            # in a collective is ended from a thread, which then says where the run is.
            plan.trainer.advance = peers.advance
            peers.last_words = partial(report.whereabouts, folder)
            # The other processes of this machine begin here, when nothing is left to be refused.
            peers.tell(folder)
        module = _assemble(experiment, origin, plan, folder)
        with explained_end(plan.trainer, peers):
            final = _train(plan, origin, module, peers)
            check_trained(plan.trainer, module)
            if plan.trainer.is_global_zero:
                keep_best(module, folder)
                seconds = time.monotonic() - began
                resumed_at = None if origin.resumed is None else origin.step
                tell(report.closing(plan, module, final, seconds, resumed_at))
        metrics = module.metrics | (final.metrics if final is not None else {})
        return Fitted(folder, metrics, plan.trainer.global_step)


def _without_weights(origin: Origin, trainer: Trainer) -> Origin:
    """Return `origin` without its weights, which need not be in memory twice.

    Initial weights are in the network by now; those of a resumed run are handed to the trainer.
    """
    resumed = origin.resumed.handed_to(trainer) if origin.resumed is not None else None
    return replace(origin, weights=None, resumed=resumed)


def _run_folder(
    experiment: Experiment,
    origin: Origin,
    plan: Plan,
    overrides: list[str],
    peers: Peers | None,
) -> AbstractContextManager[Path]:
    """The folder of the run: the first process's, that of the run that is resumed, or a new one."""
    shared = shared_run_folder()
    if shared is not None:
        return nullcontext(shared) if was_launched() else sharing(shared)
    agree_on = nobody if peers is None else peers.agree_on
    if origin.folder is None:
        wanted, is_fixed = user_path(experiment.output_dir), experiment.resume == AUTO
        return new_run_folder(
            wanted, config=plan.config, overrides=overrides, is_fixed=is_fixed, agree_on=agree_on
        )
    agree_on(origin.folder)
    changed = update_run_folder(origin.folder, config=plan.config, overrides=overrides)
    for text in _changes(experiment, origin, plan, changed):
        note(text)
    return nullcontext(origin.folder)


def _changes(
    experiment: Experiment, origin: Origin, plan: Plan, environment: dict[str, tuple[str, str]]
) -> list[str]:
    """What is not as it was when the run began, in words."""
    if origin.resumed is None:
        return ["no checkpoint was saved; restarting from step 0"]
    lines = [f"{problem}; resuming from step {origin.step}" for problem in origin.resumed.damaged]
    rate = experiment.scheduler.lr(
        origin.step, max_steps=plan.trainer.max_steps, peak=plan.sizes.peak_lr
    )
    if change := change_of_rate(origin.resumed, rate):
        lines.append(change)
    for name, (was, now) in environment.items():
        lines.append(
            f"{name} was {was} when the run began and is {now} now: its numbers may differ in the"
            " last bits"
        )
    return lines


def _assemble(
    experiment: Experiment, origin: Origin, plan: Plan, folder: Path
) -> PretrainingModule:
    """Give the trainer its folder and loggers; the module that it trains."""
    purge = {}
    if origin.folder is not None:
        purge["purge_step"] = origin.step + 1 if origin.resumed is not None else 0
    loggers = []
    for name, make in (experiment.logger or {}).items():
        with blaming(f"logger.{name}"):
            loggers.append(make(save_dir=str(folder), **purge))
    plan.trainer.begin_in(folder, loggers)
    return PretrainingModule(
        model=plan.network,
        data=plan.data,
        loss=experiment.training_loss,
        optimizer=experiment.optimizer_by_name,
        scheduler=experiment.scheduler,
        config=plan.config,
        metrics=experiment.measured,
        on_nan=experiment.on_nan,
        on_spike=experiment.on_spike,
    )


def _train(
    plan: Plan, origin: Origin, module: PretrainingModule, peers: Peers | None = None
) -> FinalScore | None:
    """Make the remaining steps, then score the test split, if there is one.

    Of a run that was killed at its end, only the end is finished.
    """
    trainer, checkpoint = plan.trainer, None
    final: FinalScore | None = None

    def end() -> None:
        nonlocal final
        # Without a step Lightning does not call on_train_end, which cleans up and draws plots. As
        # there before the score, which leaves the best weights in the model.
        if plan.ended is not None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_end(trainer, module)
        final = score(module)
        if final is not None:
            trainer.collect(final.metrics)
            trainer.flush()

    if trainer.is_global_zero:
        (trainer.folder / CHECKPOINTS).mkdir(exist_ok=True)
        clear_unfinished(trainer.folder / CHECKPOINTS)
        tell(report.opening(plan, forecast(plan, module.schedule)))
        # A logger has the settings of a run that is resumed already.
        if origin.resumed is None:
            names = chosen_names(module.config, RunFolder(trainer.folder).overrides)
            settings = {**module.config, CHOSEN: names} if names else module.config
            for logger in trainer.loggers:
                logger.log_hyperparams(settings)
    # A run without steps left is resumed only if it was killed at its end: that is finished now.
    if origin.resumed is not None:
        checkpoint, trainer.saved_step = origin.resumed.checkpoint, origin.step
        trainer.flushed_step = origin.step
        if plan.ended is not None:
            end_before_training(trainer, origin.step)
        elif trainer.is_global_zero:
            # It marks the end of a run, and this run continues.
            (trainer.folder / MODEL).unlink(missing_ok=True)
    after_loop(trainer, end)
    profile = Report(trainer.profiler)  # type: ignore[attr-defined]
    group = nullcontext() if peers is None else peers.group(trainer.strategy.root_device)
    with group, trainer.stop_signals, trainer.failures.of_threads():
        try:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        finally:
            end_workers()
    if trainer.is_global_zero and (shown := profile.shown()):
        tell(shown)
    return final
