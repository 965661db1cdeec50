"""`firstlight plan`: what a run will take, here or on a cluster, before it begins."""

from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, open_dict

from firstlight.bench.runs import FailedError
from firstlight.commands import train
from firstlight.config import build
from firstlight.errors import ConfigError, printable_lines
from firstlight.output import as_json, write
from firstlight.plan.cluster import Cluster, outlooks
from firstlight.plan.settings import PlanSettings
from firstlight.plan.text import as_text
from firstlight.plan.timed import Timed, timed
from firstlight.plan.work import elsewhere, work_of
from firstlight.runs.run_config import RunConfig
from firstlight.training.experiment import Experiment
from firstlight.training.forecast import Forecast, forecast
from firstlight.training.memory.allocation import keep_freed_memory
from firstlight.training.memory.expected import Expected, expected_memory
from firstlight.training.origin import find_origin
from firstlight.training.plan import Plan, prepare
from firstlight.training.trainer import quiet

NEARLY_ALL = 0.9
"""Share of the available memory above which a run may not fit."""


def arguments(config: DictConfig) -> tuple[RunConfig, PlanSettings, Cluster | None]:
    """The composed config as the config of a run, the settings, and the cluster that is asked for.

    Raises:
        ConfigError: it is not valid.
    """
    entries: dict[str, Any] = {"plan": PlanSettings, "cluster": Cluster}
    if config.get("cluster") is None:
        with open_dict(config):
            config.pop("cluster", None)
        del entries["cluster"]
    run, values = train.arguments_with(config, entries)
    if run.plain["resume"] is not None:
        raise ConfigError("resume: plan is for new runs; leave resume out")
    cluster = None
    if "cluster" in values:
        try:
            cluster = Cluster(**values["cluster"])
        except ValueError as error:
            raise ConfigError(f"cluster.{error}") from None
    return run, PlanSettings(**values["plan"]), cluster


def main(config: DictConfig) -> None:
    """Print the plan, for reading or as one JSON object.

    Raises:
        ConfigError: the run cannot be.
        RunError: its first steps failed.
    """
    keep_freed_memory()  # as train does
    found, format = planned(config)
    if format == "json":
        write(as_json(found) + "\n")
    else:
        write(printable_lines(as_text(found)))


def planned(config: DictConfig) -> tuple[dict[str, Any], str]:
    """The plan of the run as plain data, and the format that is asked for.

    Raises:
        ConfigError: the run cannot be.
        RunError: its first steps failed.
    """
    run, settings, cluster = arguments(config)
    quiet()
    if cluster is not None:
        run = elsewhere(run)
    experiment = Experiment(**build(run.plain))
    with ExitStack() as held:
        origin = find_origin(experiment, run.stored, [], held)
        plan = prepare(experiment, origin, with_weights=False, is_here=cluster is None)
    told = forecast(plan, experiment.scheduler)
    found: dict[str, Any] = {
        "name": experiment.name,
        "model": type(plan.network).__name__,
        "parametrization": plan.parametrization,
        "precision": plan.config["trainer"]["precision"],
        "forecast": asdict(told),
        "warnings": [*plan.notes, *told.warnings],
    }
    if cluster is not None:
        work = work_of(run, plan, told, experiment)
        rows = [asdict(row) for row in outlooks(work, cluster)]
        return found | {"cluster": asdict(cluster), "outlook": rows}, settings.format
    memory = expected_memory(
        plan.make_model,
        experiment.training_loss,
        experiment.optimizer_by_name,
        plan.trainer,
        found["precision"],
    )
    found["device"] = str(plan.trainer.strategy.root_device)
    found["memory"] = _memory(memory)
    found["warnings"] += _memory_warnings(memory, plan)
    found["time"] = _time(run, plan, told, settings.steps)
    return found, settings.format


def _memory(memory: Expected | None) -> dict[str, Any] | None:
    if memory is None:
        return None
    return {**asdict(memory), "total": memory.total}


def _memory_warnings(memory: Expected | None, plan: Plan) -> list[str]:
    if memory is None:
        return []
    n = plan.trainer.num_devices if memory.of != "the GPU" else 1
    if n * memory.total <= NEARLY_ALL * memory.available:
        return []
    smaller = "trainer.micro_batch_size=auto takes as much at once as fits"
    return [
        f"memory: {n * memory.total / 1e9:.2g} GB are expected, and {memory.of} has"
        f" {memory.available / 1e9:.2g} GB; {smaller}"
    ]


def _time(run: RunConfig, plan: Plan, told: Forecast, n_steps: int) -> dict[str, Any] | None:
    """What the first steps say of the time; None if none are made."""
    if n_steps == 0 or plan.trainer.world_size > 1:
        return None
    try:
        found: Timed = timed(run, plan, told, n_steps)
    except FailedError as error:
        raise FailedError(f"the first steps of this run failed: {error}") from None
    return {
        **asdict(found),
        "evaluation_share": found.share(found.evaluation, told.evaluations),
        "samples_share": found.share(found.samples, told.evaluations + 1),
        "save_share": found.share(found.save, told.evaluations),
    }
