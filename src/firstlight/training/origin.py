"""Where a run comes from: nothing, given weights, or an earlier run that is resumed."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.config import build
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import shorten
from firstlight.files import check_file_system
from firstlight.model.base import LanguageModel
from firstlight.process_group import end_with
from firstlight.processes import first_process, is_further, was_launched
from firstlight.runs.run_folder import AUTO
from firstlight.runs.writer import only_writer
from firstlight.sources import find_checkpoint, load_checkpoint
from firstlight.training.experiment import Experiment
from firstlight.training.resume import Resumed, find_resumed
from firstlight.training.start import adopted, config_of_data, started_config


@dataclass(frozen=True)
class Origin:
    """What decides the first weights of a run, and everything that comes with them."""

    config: dict[str, Any]
    """As it is stored with the run, and in its checkpoints."""
    model: Callable[..., LanguageModel]
    tokenizer: Tokenizer
    weights: Checkpoint | None = None
    """The first weights; None: drawn from the seed."""
    folder: Path | None = None
    """Of the run that is resumed; None: the run gets a new one."""
    resumed: Resumed | None = None
    """The checkpoint that it is resumed from; None if it has saved none yet."""
    note: str = ""
    """What the user should know about it."""

    @property
    def step(self) -> int:
        """Optimizer steps that have been made before."""
        return self.resumed.step if self.resumed is not None else 0


def find_origin(
    experiment: Experiment, config: dict[str, Any], overrides: list[str], held: ExitStack
) -> Origin:
    """Read what the run begins with; `held` keeps the lock of a run that is resumed.

    Raises:
        ConfigError: the weights, or the run, cannot be used, or another process writes it.
    """
    # `resume` belongs to this command, not to the run, whose checkpoints must not depend on it.
    config = config | {"resume": None}
    fresh = Origin(config, experiment.model, experiment.tokenizer)
    if was_launched():
        # A process that the first one launched would train on alone if that were killed.
        end_with(first_process())
    if experiment.resume in (None, AUTO):
        return _from_weights(fresh, experiment, overrides)
    folder = Path(experiment.resume)
    if not is_further():
        held.enter_context(only_writer(folder))
        check_file_system(
            folder, f"resume ({shorten(experiment.resume)})", "copy the run to another one"
        )
    resumed = find_resumed(folder)
    if resumed is None:
        begun_again = _from_weights(fresh, experiment, overrides)
        return replace(begun_again, folder=folder)
    return replace(fresh, tokenizer=resumed.tokenizer, folder=folder, resumed=resumed)


def with_data(fresh: Origin, overrides: list[str]) -> Origin:
    """`fresh`, or what it becomes with the tokenizer that comes with prepared data.

    Raises:
        ConfigError: that tokenizer cannot be read.
    """
    prepared = config_of_data(fresh.config, overrides)
    if prepared is None:
        return fresh
    config, tokenizer = prepared
    return replace(fresh, config=config, model=build(config["model"]), tokenizer=tokenizer)


def _from_weights(fresh: Origin, experiment: Experiment, overrides: list[str]) -> Origin:
    """`fresh`, or what it becomes with the weights of `init_from`."""
    if experiment.init_from is None:
        return with_data(fresh, overrides)
    weights = load_checkpoint(find_checkpoint(experiment.init_from, key="init_from"))
    config = started_config(fresh.config, weights, overrides)
    return Origin(
        config,
        build(config["model"]),
        weights.build_tokenizer(),
        weights=weights,
        note=adopted(fresh.config, config, weights),
    )
