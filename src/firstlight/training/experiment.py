"""What a run is made of: the parts that its config names, built."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import Logger

from firstlight.config import NonEmpty, Seed
from firstlight.data.order import Order
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, shorten
from firstlight.loss.base import Loss
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.metrics.base import Metric, MetricGroup
from firstlight.metrics.measured import measured
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory, Schedule
from firstlight.optim.by_name import Patterns, check_rates, frozen, optimizer_by_name
from firstlight.optim.parametrization import Parametrization, adapted, begun
from firstlight.training.compilation import Compilation
from firstlight.training.nonfinite.guard import OnNan
from firstlight.training.spikes.recent import OnSpike
from firstlight.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`conf/_run.yaml` has these keys; their types are what a config is checked against.

    What another part completes is given as a callable: `model()`, `data(tokenizer=..., order=...)`,
    `optimizer(model)`, `trainer(data=...)`, `logger(save_dir=...)`.
    """

    name: NonEmpty
    output_dir: NonEmpty
    seed: Seed
    model: Callable[..., LanguageModel]
    tokenizer: Tokenizer
    order: Order
    data: Callable[..., TokenDataModule]
    optimizer: OptimizerFactory
    scheduler: Schedule
    trainer: Callable[..., Trainer]
    loss: Loss | None = None
    """None, as in runs that earlier versions began: the cross-entropy."""
    metrics: dict[str, MetricGroup] | None = None
    """None, as in runs that earlier versions began: those of conf/metrics/default.yaml."""
    callbacks: dict[str, pl.Callback] | None = None
    logger: dict[str, Callable[..., Logger]] | None = None
    on_nan: OnNan = "stop"
    on_spike: OnSpike = "record"
    freeze: Patterns | None = None
    lr_scale: Patterns | None = None
    parametrization: Parametrization | None = None
    """None: the standard one."""
    init_from: NonEmpty | None = None
    resume: NonEmpty | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        # A run that is resumed stays where it is, whatever an earlier version let it be called.
        if self.resume is None and ".." in PurePath(self.name).parts:
            raise ConfigError(
                f"name ({shorten(self.name)}): a folder below outputs/, so without ..; output_dir="
                " puts a run anywhere"
            )
        # Here, where every other key is checked: the model, which the patterns need, comes later.
        check_rates(self.lr_scale)

    def network_of(self, make: Callable[[], LanguageModel]) -> Callable[[], LanguageModel]:
        """Makes the model of `make` as a run begins with it: its first weights, parts frozen."""
        return network_of(make, self.parametrization, self.freeze)

    @property
    def optimizer_by_name(self) -> OptimizerFactory:
        """Makes the optimizer of the parameters that train.

        It has the rates of the parametrization, times those of `lr_scale`.
        """
        make = partial(adapted, make=self.optimizer, parametrization=self.parametrization)
        return partial(optimizer_by_name, make=make, lr_scale=self.lr_scale)

    @property
    def training_loss(self) -> Loss:
        """What training minimises."""
        return self.loss or CrossEntropy()

    @property
    def measured(self) -> list[Metric]:
        """What evaluations measure, the loss first.

        Raises:
            ConfigError: two metrics have one name.
        """
        return measured(self.metrics)

    @property
    def all_callbacks(self) -> dict[str, pl.Callback]:
        """The callbacks by the keys of the config that are about them."""
        # First among the callbacks, so that the others time and measure the compiled model.
        compilation: dict[str, pl.Callback] = {"compile": Compilation()} if self.compile else {}
        of_config = {
            f"callbacks.{name}": callback for name, callback in (self.callbacks or {}).items()
        }
        return compilation | of_config


def network_of(
    make: Callable[[], LanguageModel],
    parametrization: Parametrization | None,
    freeze: Patterns | None,
) -> Callable[[], LanguageModel]:
    """Makes the model of `make` with the first weights of `parametrization`, parts frozen."""
    return partial(frozen, partial(begun, make, parametrization), freeze)
