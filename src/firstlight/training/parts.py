"""The model and the data of a config, made for Lightning's own Trainer or a loop of one's own."""

import copy
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from firstlight.config import build
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import ConfigError
from firstlight.model.construction import without_weights
from firstlight.model.contract import check_attributes
from firstlight.runs.places import with_files
from firstlight.training.experiment import Experiment
from firstlight.training.language_module import LanguageModule
from firstlight.training.origin import Origin, find_origin
from firstlight.training.plan import blaming
from firstlight.training.start import load_start


def language_module(config: dict[str, Any]) -> LanguageModule:
    """The model of a composed `config`, with its loss, optimizer, schedule and metrics.

    `freeze` and `lr_scale` hold as in a run.

    Its first weights are those of a run with this config: drawn from `seed`, or those of
    `init_from`. The sections `trainer`, `callbacks` and `logger` are not used.

    Raises:
        ConfigError: a part of the config cannot be made.
    """
    experiment, origin = _origin(config)
    make_model = experiment.network_of(origin.model)
    # The user's program may draw numbers of its own before and after.
    with isolate_rng(), blaming("model"):
        pl.seed_everything(experiment.seed, verbose=False)
        model = make_model() if origin.weights is None else without_weights(make_model)
        check_attributes(model)
    if origin.weights is not None:
        load_start(model, origin.weights)
    return LanguageModule(
        model=model,
        loss=experiment.training_loss,
        optimizer=experiment.optimizer_by_name,
        scheduler=experiment.scheduler,
        config=origin.config,
        metrics=experiment.measured,
    )


def text_data(config: dict[str, Any]) -> TokenDataModule:
    """The text of a composed `config`, read and cut into windows as in a run with this config.

    Raises:
        ConfigError: the text is not available, or too short.
    """
    experiment, origin = _origin(config)
    with blaming("data"):
        data = experiment.data(tokenizer=origin.tokenizer, order=experiment.order)
        data.setup()
    return data


def _origin(config: dict[str, Any]) -> tuple[Experiment, Origin]:
    for key, instead in (
        ("resume", "Trainer.fit(ckpt_path=...) resumes a run of Lightning's"),
        ("compile", "call module.model.compile()"),
    ):
        if config.get(key):
            raise ConfigError(f"{key}: cannot be set here; {instead}")
    # What only firstlight's own Trainer takes may need packages, or folders.
    plain = copy.deepcopy(config) | {"callbacks": None, "logger": None}
    experiment = Experiment(**build(with_files(plain, None)))
    with ExitStack() as held:
        return experiment, find_origin(experiment, copy.deepcopy(config), [], held)
