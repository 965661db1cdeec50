"""The runs of a coordinate check: each width, seed and parametrization, a few steps long."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firstlight.bench.runs import FailedError, run_quietly
from firstlight.commands.short_run import shortened_to_measure
from firstlight.config import build
from firstlight.coord_check.growth import Measured
from firstlight.coord_check.probe import Probe
from firstlight.coord_check.settings import CoordSettings
from firstlight.coord_check.sizes import at_width
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, counted
from firstlight.files import existing_place
from firstlight.model.construction import without_weights
from firstlight.optim.constant import Constant
from firstlight.runs.run_config import RunConfig
from firstlight.sweep.settings import seeds_from
from firstlight.training.experiment import network_of
from firstlight.training.plan import blaming

STANDARD = "standard"


def names_of(run: RunConfig) -> list[str]:
    """The parametrizations to look at: the standard one, and that of the config."""
    section = run.plain.get("parametrization")
    if section is None:
        return [STANDARD]
    return [STANDARD, str(section["_target_"]).rpartition(".")[2]]


def measured(
    run: RunConfig, settings: CoordSettings, tell: Callable[[str], None]
) -> list[Measured]:
    """Make the runs in folders that are removed again; `tell` is called after each width.

    Raises:
        ConfigError: a run was refused, or the model cannot be made at a width.
        FailedError: one failed.
    """
    # All first: a mistake in the last width, or in the parametrization, is told before the first
    # run is made.
    section = run.plain["model"]
    sizes = {width: at_width(section, width, settings.grow) for width in settings.widths}
    for size in sizes.values():
        _check_made(run.changed({"model": size}))
    seeds = seeds_from(run.plain["seed"], settings.seeds)
    found: list[Measured] = []
    place = existing_place(user_path(run.plain["output_dir"]))
    with tempfile.TemporaryDirectory(prefix=".coord_check_", dir=place) as work:
        for name in names_of(run):
            for width, size in sizes.items():
                for seed in seeds:
                    probe = _probed(run, settings.steps, size, seed, name, Path(work) / "run")
                    found.append(Measured(name, width, seed, probe.sizes, probe.moves))
                # Not before: a mistake that only a run finds is one line.
                tell(f"{name}, width {width}: {counted(len(seeds), 'run')} made")
    return found


def _check_made(config: RunConfig) -> None:
    """Make a model as shapes, in the parametrization of the config.

    Raises:
        ConfigError: it cannot be made.
    """
    built = build(config.plain)
    with blaming("model"):
        without_weights(network_of(built["model"], built.get("parametrization"), None))


def _probed(
    run: RunConfig, steps: int, size: dict[str, int], seed: int, name: str, folder: Path
) -> Probe:
    changes = shortened_to_measure(run.plain, steps=steps, eval_batches=1)
    probe = Probe()

    def alone(arguments: dict[str, Any]) -> None:
        arguments["callbacks"], arguments["logger"] = {"probe": probe}, {}
        # A warm-up would make the first steps too small to show anything.
        arguments["scheduler"] = Constant()
        arguments["on_nan"], arguments["on_spike"] = "stop", "record"
        # Compiled layers do not tell what they put out.
        arguments["compile"] = False
        if name == STANDARD:
            arguments["parametrization"] = None

    config = run.changed({**changes, "model": size, "seed": seed})
    where = f"{name}, width {next(iter(size.values()))}"
    try:
        run_quietly(config, folder, alone)
    except FailedError as error:
        raise FailedError(f"{where}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{error} ({where})") from None
    return probe
