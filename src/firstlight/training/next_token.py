"""What training a language model has in common, whichever Trainer it is trained by."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from firstlight.data.loader import Batch
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import ConfigError, one_line
from firstlight.loss.base import Loss, losses_of
from firstlight.metrics.base import Metric
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory, Schedule, check_rates_of, rate_at
from firstlight.training.evaluation import EvaluationModule


class NextTokenModule(EvaluationModule):
    """Next-token training of `model`: a loss, an optimizer and a schedule by step.

    `config` is the composed config as plain data.
    """

    def __init__(
        self,
        *,
        model: LanguageModel,
        byte_lengths: Tensor,
        loss: Loss,
        optimizer: OptimizerFactory,
        scheduler: Schedule,
        config: dict[str, Any],
        metrics: list[Metric] | None = None,
    ) -> None:
        super().__init__(model, byte_lengths, metrics)
        self.loss, self.config = loss, config
        self.training_pass: Callable[[Tensor], tuple[Tensor, Tensor | None]] = (
            model.hidden_and_auxiliary_loss
        )
        """As `hidden`, with a loss of the model itself, or None: the model's, or that compiled."""
        self.optimizer_factory, self.schedule = optimizer, scheduler
        # With it a ModelSummary counts the operations of each layer.
        self.example_input_array = torch.zeros(1, model.context_length, dtype=torch.int64)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of `ids` (B, T)."""
        return self.model(ids)

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, which the schedule follows."""
        return self.trainer.max_steps

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer_factory(self.model)
        peak, max_steps = float(optimizer.param_groups[0]["lr"]), self.total_steps()
        try:
            check_rates_of(self.schedule, max_steps=max_steps, peak=peak)
        except ValueError as error:
            raise ConfigError(f"scheduler: {one_line(error)}") from error

        # LambdaLR multiplies each group's own rate: the schedule is given as a factor of the peak.
        def factor(step: int) -> float:
            try:
                return rate_at(self.schedule, step, max_steps=max_steps, peak=peak) / peak
            except ValueError as error:
                raise ConfigError(f"scheduler: {one_line(error)}") from error

        scheduler = LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def token_losses(self, batch: Batch) -> Tensor:
        """The loss of each target (B * T,), given inputs (B, T) and targets (B, T)."""
        inputs, targets = batch
        hidden = self.hidden(inputs).flatten(0, 1)  # (B * T, C)
        return losses_of(self.loss, hidden, self.model.output_weight, targets.flatten())

    def mean_loss(self, batch: Batch) -> Tensor:
        """What training minimises: the mean loss of the tokens of a batch, and the model's own."""
        inputs, targets = batch
        hidden, auxiliary = self.training_pass(inputs)  # (B, T, C)
        losses = losses_of(
            self.loss, hidden.flatten(0, 1), self.model.output_weight, targets.flatten()
        )
        return losses.mean() if auxiliary is None else losses.mean() + auxiliary


def check_fits(model: LanguageModel, data: TokenDataModule) -> None:
    """Check that `model` knows every id of `data`, and can read its windows.

    Raises:
        ConfigError: it cannot.
    """
    used = data.tokenizer.encoding.n_vocab
    if model.vocab_size < used:
        raise ConfigError(
            f"model.vocab_size ({model.vocab_size}) must be at least {used}, the ids of the"
            " tokenizer"
        )
    if data.context_length > model.context_length:
        raise ConfigError(
            f"data.context_length ({data.context_length}) must not be above the model's"
            f" ({model.context_length})"
        )
