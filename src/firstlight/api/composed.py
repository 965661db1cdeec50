"""Configs, composed as on the command line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from firstlight.api import words
from firstlight.api.call import command

if TYPE_CHECKING:
    from omegaconf import DictConfig


@contextmanager
def composed(
    verb: str,
    overrides: Sequence[object],
    settings: Mapping[str, Any],
    config_dir: words.Path | None = None,
) -> Iterator["DictConfig"]:
    """The config of a call of `verb`, and its settings of Hydra's within the block.

    Raises:
        ConfigError: it cannot be composed.
    """
    from firstlight import verbs
    from firstlight.compose.hydra_calls import settings_of_hydra
    from firstlight.conf_files import using_config_dir

    args = words.arguments(verb, overrides, settings, config_dir)
    # Around all that follows: loading a checkpoint, or resuming, looks up which keys are texts once
    # more, in the same folders.
    with using_config_dir(args.config_dir):
        # Only runs can be resumed, where the config is the stored one.
        if verb == "train":
            config, _ = verbs.run_config(args.overrides, args.config_dir)
        else:
            config = verbs.composed_config(verb, args.overrides, args.config_dir)
        # Without logging: Hydra would replace the handlers of a program that is not ours.
        with settings_of_hydra(config, with_logging=False) as own:
            yield own


@command
def compose(
    *overrides: str, config_dir: words.Path | None = None, **settings: Any
) -> dict[str, Any]:
    """The config of the run that `firstlight.train` would make with the same arguments.

    It is checked, and every reference in it is resolved. Nothing is trained or written.

    Raises:
        Error: it is not valid.
    """
    from firstlight.commands.train import arguments  # late: it imports torch

    with composed("train", overrides, settings, config_dir) as config:
        return arguments(config)
