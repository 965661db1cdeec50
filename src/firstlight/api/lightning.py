"""The model and the data of a config as the parts that Lightning's own Trainer takes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from firstlight.api.call import command
from firstlight.errors import ConfigError, shown

if TYPE_CHECKING:
    from firstlight.data.token_data import TokenDataModule
    from firstlight.training.language_module import LanguageModule


@command
def lightning_module(config: Mapping[str, Any]) -> "LanguageModule":
    """The model of a `config` that `firstlight.compose` has made, as a LightningModule.

    It has the loss, optimizer, schedule and metrics of the config, and the first weights of a run
    with it: drawn from `seed`, or those of `init_from`. The sections `trainer`, `callbacks` and
    `logger` are not used.

    Raises:
        Error: the config is not valid, or a part of it cannot be made.
    """
    from firstlight.training.parts import language_module  # late: it imports torch

    return language_module(_checked(config))


@command
def lightning_data(config: Mapping[str, Any]) -> "TokenDataModule":
    """The text of a `config` that `firstlight.compose` has made, as a LightningDataModule.

    Its windows, and their order in each epoch, are those of a run with this config.

    Raises:
        Error: the config is not valid, or the text is not available, or too short.
    """
    from firstlight.training.parts import text_data  # late: it imports torch

    return text_data(_checked(config))


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    from omegaconf import DictConfig

    from firstlight.commands.train import arguments  # late: it imports torch
    from firstlight.interpolation import as_data

    if not isinstance(config, Mapping):
        raise ConfigError(f"config ({shown(config)}): give what firstlight.compose returns")
    return arguments(DictConfig(as_data(dict(config))))
