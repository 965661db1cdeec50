"""The config of a resumed run: the stored one, with the few changes that may be made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from firstlight.compose.compose import compose_config
from firstlight.compose.explain import explained
from firstlight.compose.hydra_calls import parse_overrides
from firstlight.compose.keys import keys_of
from firstlight.compose.lengths import with_one_length
from firstlight.compose.mistakes import mistaken
from firstlight.conf_files import path_keys
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, did_you_mean, shorten
from firstlight.interpolation import UNUSED, as_data, from_environment, given_again
from firstlight.processes import is_further
from firstlight.runs.later_keys import lacking
from firstlight.runs.places import is_there
from firstlight.runs.run_folder import AUTO, RunFolder

CHANGEABLE = (
    *(
        "trainer.max_",
        "trainer.eval_",
        "trainer.log_",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.timeout",
        "trainer.virtual_shards",
        "data.num_workers",
        "data.test_batches",
    ),
    *("trainer.micro_batch_size", "callbacks.", "logger.", "metrics.", "on_nan", "on_spike"),
)
"""Keys that may be changed when resuming; others would change what has already happened."""


@dataclass(frozen=True)
class _Stored:
    """The config in a run folder, and which of its values came from the environment."""

    config: dict[str, Any]
    keys: list[str]
    """All dotted keys of the config."""
    unstored: dict[str, str]
    """Keys whose values must be given again, and the text that is stored for each."""

    @classmethod
    def of(cls, folder: Path) -> "_Stored":
        """Read the run in `folder`."""
        from firstlight.checkpoints.find import checkpoints_of  # late: it imports torch

        config = RunFolder(folder).config
        unused = set(UNUSED)
        if not checkpoints_of(folder):  # it restarts from step 0, with the weights of init_from
            unused.remove("init_from")
        again = {key: text for key, text in from_environment(config) if key not in unused}
        return cls(config, list(keys_of(config)), again)

    def with_metrics(self) -> "_Stored":
        """Add the section `metrics`, which earlier versions did not store, so it can be changed."""
        if "metrics" in self.config:
            return self
        default = OmegaConf.to_container(compose_config("train", ["metrics=default"]).metrics)
        config = self.config | {"metrics": default}
        return _Stored(config, list(keys_of(config)), self.unstored)


def resumed_config(overrides: list[str], config_dir: str | None = None) -> DictConfig | None:
    """Compose the config of the run that `resume=RUN` names, with the other overrides.

    None if no run is resumed: without `resume`, or with `resume=auto`, which is still among the
    overrides if there is no run yet.

    Raises:
        ConfigError: the run does not exist, or an override would change what has already happened.
    """
    changes = parse_overrides(overrides)
    name = _named(changes)
    if name is None:
        return None
    folder = _folder_of(name)
    stored = _Stored.of(folder)
    if any(change.key_or_group.startswith("metrics.") for change in changes):
        stored = stored.with_metrics()
    # The stored config, not a composed one: the defaults of conf/ may have changed since.
    config = DictConfig(as_data(stored.config))
    paths = path_keys(config_dir)
    problems: dict[str, str] = {}
    for change in changes:
        key = change.key_or_group
        # The first process has put all other changes into the config that a further process reads.
        if key == "resume" or (is_further() and key not in stored.unstored):
            continue
        # A path of the text: `fit` checks that it leads to the same text.
        may_have_moved = key in paths
        try:
            if may_have_moved or _may_change(change, stored):
                _change(config, change, stored, is_path=may_have_moved)
        except ConfigError as error:
            problems[str(change.input_line)] = str(error)
    if problems:
        raise mistaken(problems, overrides, config_dir)
    with_one_length(config, changes, list)
    _check_given_again(stored, changes)
    config.resume = name if "${" in name else str(folder)
    return config


def _named(changes: list[Override]) -> str | None:
    """The run that the last override of `resume` names; None if it names none.

    Raises:
        ConfigError: it is not a text.
    """
    name = None
    for change in changes:
        if change.key_or_group == "resume" and not change.is_delete():
            name = change.value()
    if name in (None, AUTO):
        return None
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"resume: expected the folder of one run, or last, got {shorten(repr(name))}"
        )
    return name


def _folder_of(name: str) -> Path:
    """The folder of a run, from its name on the command line."""
    if name == "last":
        from firstlight.checkpoints.find import newest_run  # late: it imports torch

        return newest_run()
    # The name may be an interpolation: ${oc.env:SCRATCH}/run
    with explained("train", []):
        resolved = str(OmegaConf.create({"resume": name}).resume)
    return user_path(resolved)


def _may_change(change: Override, stored: _Stored) -> bool:
    """Whether to make a change; False if the run has the value already.

    Raises:
        ConfigError: the change would change what has already happened.
    """
    key = change.key_or_group
    if change.is_sweep_override():
        raise ConfigError(f"{key}: one run is resumed at a time, with one value")
    if key.startswith(CHANGEABLE) or key in stored.unstored:
        return True
    if _is_as_it_was(change, stored.config):
        return False
    allowed = ", ".join(f"{start}*" if start[-1] in "._" else start for start in CHANGEABLE)
    raise ConfigError(
        f"{key}: cannot be changed when resuming; only {allowed} can, and data.path, if the text"
        " has moved"
    )


def _is_as_it_was(change: Override, stored: dict[str, Any]) -> bool:
    """Whether an override gives a key the value that the run has, or would have had."""
    key = change.key_or_group
    if change.is_delete():
        return key not in stored
    value = change.value()
    # A key that is newer than the run has the value that its version behaved like.
    lacks = lacking(stored)
    if key not in lacks and key not in keys_of(stored):
        return False
    known = OmegaConf.select(DictConfig(as_data(stored)), key, default=lacks.get(key))
    if isinstance(known, int):  # batch_size=1e2
        from firstlight.config import whole_number  # late: it imports pydantic

        value = whole_number(value)
    return type(known) is type(value) and known == value


def _change(config: DictConfig, change: Override, stored: _Stored, *, is_path: bool) -> None:
    """Apply one override to `config`.

    Raises:
        ConfigError: the run has no such key.
    """
    key = change.key_or_group
    is_known = key in stored.keys or key in lacking(stored.config)
    if not is_known and not change.is_add():
        raise ConfigError(f"{key}: the run has no such key{did_you_mean(key, stored.keys)}")
    if change.is_delete():
        parent, _, last = key.rpartition(".")
        OmegaConf.select(config, parent).pop(last)
        return
    value: Any = change.value()
    OmegaConf.update(config, key, _absolute(value) if is_path else value, force_add=True)


def _absolute(value: Any) -> Any:
    """Make relative paths absolute: a stored path is relative to where the run was begun."""
    if isinstance(value, list):
        return [_absolute(element) for element in value]
    # Not every text is a path (data.url): only what exists is one.
    if isinstance(value, str) and "${" not in value and is_there(value):
        return str(user_path(value).absolute())
    return value


def _check_given_again(stored: _Stored, changes: list[Override]) -> None:
    """Check that every value that came from the environment is given again.

    Raises:
        ConfigError: with one line for each that is not.
    """
    # With a dot at the end: a section stands for its keys, but data.path not for data.path_x.
    given = tuple(f"{change.key_or_group}." for change in changes)
    lines: list[str] = []
    for key, text in stored.unstored.items():
        if not f"{key}.".startswith(given):
            again = given_again(key, text)
            lines.append(
                f"{key}: came from the environment ({text}) when the run began; give it again:"
                f" {again}"
            )
    if lines:
        raise ConfigError("\n".join(lines))
