"""How long a run will take, by its first steps: they are made, with an evaluation and a save."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.bench.runs import run_quietly
from firstlight.bench.stopwatch import Stopwatch, synchronize
from firstlight.commands.short_run import shortened_to_measure
from firstlight.data.files import user_path
from firstlight.files import existing_place
from firstlight.runs.run_config import RunConfig
from firstlight.training.forecast import Forecast
from firstlight.training.module import PretrainingModule
from firstlight.training.plan import Plan
from firstlight.training.trainer import Trainer

WARMUP_STEPS = 1
"""The first step allocates, and is slower."""
MOST_EVALUATED = 8
"""Batches of each split that are evaluated; the time of more is taken to be in proportion."""


@dataclass(frozen=True)
class Timed:
    """Seconds of the parts of a run, from those of its first steps."""

    step: float
    evaluation: float
    """Of each, without what follows."""
    samples: float
    """After each evaluation: samples, and what else callbacks do then."""
    save: float
    """Of each checkpoint after an evaluation."""
    total: float
    """Of the whole run, from its first evaluation to the end; reading the text comes before."""
    tokens_per_second: float
    """Of the steps alone."""

    def share(self, seconds: float, times: int) -> float:
        """Of the run's time, what so many times so many seconds are."""
        return times * seconds / self.total


class Ends(Stopwatch):
    """Times the steps, and what happens after the last of them."""

    def __init__(self, warmup_steps: int) -> None:
        super().__init__(warmup_steps)
        self.moments: dict[str, float] = {}

    def _note(self, moment: str, trainer: Trainer) -> None:
        synchronize(trainer.strategy.root_device)
        self.moments[moment] = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        self._note("evaluation", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        self._note("samples", trainer)

    def on_step_complete(self, trainer: Trainer) -> None:
        # Lightning calls callbacks that save last, whatever their order was.
        self._note("save", trainer)

    def on_train_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        self._note("end", trainer)

    def between(self, first: str, second: str) -> float:
        return self.moments[second] - self.moments[first]


def timed(run: RunConfig, plan: Plan, told: Forecast, n_steps: int) -> Timed:
    """Make the first steps of a run in a folder that is removed again, and time them.

    Raises:
        ConfigError: the run was refused.
        FailedError: it cannot be made: out of memory, or a number became nan or inf.
    """
    n_batches = plan.data.n_eval_batches(plan.data.windows["val"])
    evaluated = min(plan.data.eval_batches or n_batches, MOST_EVALUATED)
    steps = WARMUP_STEPS + n_steps
    changes = shortened_to_measure(run.plain, steps=steps, eval_batches=evaluated)
    watch = Ends(WARMUP_STEPS)

    def first_of_all(arguments: dict[str, Any]) -> None:
        # With the run's own callbacks, after this one: their time is the run's, too.
        arguments["callbacks"] = {"ends": watch, **(arguments["callbacks"] or {})}
        # A logger may have a server, where this is no run.
        arguments["logger"] = {}

    # Where the run's folder will be, so that the speed of that disk is measured.
    place = existing_place(user_path(run.plain["output_dir"]))
    with tempfile.TemporaryDirectory(prefix=".plan_", dir=place) as work:
        run_quietly(run.changed(changes), Path(work) / "run", first_of_all)
    # In proportion to the tokens: the last batch may be smaller.
    data = plan.data
    scored = data.n_scored("val", evaluated) + data.n_scored("train", evaluated)
    per_token = watch.between("evaluation", "samples") / scored
    step = watch.timing.tokens_per_step / watch.timing.tokens_per_second
    evaluation = per_token * told.evaluated_tokens
    samples, save = watch.between("samples", "save"), watch.between("save", "end")
    # The untrained model is evaluated and sampled as well, and not saved.
    untrained = per_token * _untrained_tokens(plan) + samples
    each = evaluation + samples + save
    final = per_token * plan.data.n_final
    return Timed(
        step=step,
        evaluation=evaluation,
        samples=samples,
        save=save,
        total=told.steps * step + told.evaluations * each + untrained + final,
        tokens_per_second=watch.timing.tokens_per_second,
    )


def _untrained_tokens(plan: Plan) -> int:
    data = plan.data
    limit = data.untrained_eval_batches
    of_training = limit or data.n_eval_batches(data.windows["val"])
    return data.n_scored("val", limit) + data.n_scored("train", of_training)
