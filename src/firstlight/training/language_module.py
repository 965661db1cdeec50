"""A language model that Lightning's own Trainer trains, on any data."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.checkpoints.model_file import save_model_file
from firstlight.data.loader import Batch
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, RunError
from firstlight.files import replacing_by_path
from firstlight.loss.base import Loss
from firstlight.metrics.base import Metric
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory, Schedule
from firstlight.training.lightning import handles_scaling, scaler_of
from firstlight.training.next_token import NextTokenModule, check_fits


class LanguageModule(NextTokenModule):
    """A language model for Lightning's own Trainer, and its arguments, callbacks and loggers.

    The data is a `TokenDataModule` or anything else whose batches are (inputs, targets). Logged are
    `train/loss` of every batch, in training mode; `grad_norm` before clipping, if the trainer clips
    by norm; and after a validation `val/loss` and the other metrics, exact over all batches and
    processes (`test/...` after a test; a second loader is `val_1/...`). On a `TokenDataModule` a
    run that is resumed in the middle equals one that was not.

    Raises:
        ConfigError: when training begins, if the model does not fit the data, or the schedule the
            length of the run.
    """

    def __init__(
        self,
        *,
        model: LanguageModel,
        loss: Loss,
        optimizer: OptimizerFactory,
        scheduler: Schedule,
        config: dict[str, Any],
        metrics: list[Metric] | None = None,
    ) -> None:
        unknown = torch.zeros(model.vocab_size, dtype=torch.int64)  # until there is a tokenizer
        super().__init__(
            model=model,
            byte_lengths=unknown,
            loss=loss,
            optimizer=optimizer,
            scheduler=scheduler,
            config=config,
            metrics=metrics,
        )
        self.save_hyperparameters({"config": config})
        self.tokenizer: Tokenizer | None = None
        """That of the data, if it is a `TokenDataModule`."""
        self.max_steps = 0

    def setup(self, stage: str) -> None:
        # In every stage: validate and test call setup, and never the hooks of training.
        data = self._text_data
        if data is not None:
            check_fits(self.model, data)
            self.tokenizer = data.tokenizer
            self.byte_lengths = data.tokenizer.byte_lengths.to(self.device)

    @property
    def _text_data(self) -> TokenDataModule | None:
        data = getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, TokenDataModule) else None

    def total_steps(self) -> int:
        steps = self.trainer.max_steps
        if self.trainer.max_epochs != -1:
            # Not otherwise: it makes the loaders, and Lightning then restores no state of theirs.
            steps = self.trainer.estimated_stepping_batches
        if steps == -1 or steps == float("inf"):
            raise ConfigError(
                f"{type(self.schedule).__name__} needs the length of the run: give the Trainer"
                " max_steps or max_epochs"
            )
        self.max_steps = int(steps)
        return self.max_steps

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.loss.begin_step(self.trainer.global_step, max_steps=self.max_steps)
        data = self._text_data
        if data is not None:  # dropout draws the same again in a run that is resumed
            number = self.trainer.fit_loop.total_batch_idx
            data.order.seed_batch(number, self.trainer.global_rank, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, _ = self._checked(batch, batch_idx)
        loss = self.mean_loss(batch)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(inputs))
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, and also by the norm of a fused optimizer in mixed precision."""
        if gradient_clip_val is None:
            return
        if gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        scaler = scaler_of(self.trainer)
        if scaler is not None and handles_scaling(optimizer):
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        self.log("grad_norm", norm)

    def on_validation_epoch_start(self) -> None:
        # Lightning knows by now how many loaders there are.
        self._begin("val", self.trainer.num_val_batches)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(self._checked(batch, batch_idx), batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        # Sums over all processes are equal in each: Lightning need not reduce them again.
        self.log_dict(self.metrics, prog_bar=False, sync_dist=False)

    def on_test_epoch_start(self) -> None:
        self._begin("test", self.trainer.num_test_batches)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        # The same, with other names: `_begin` has set them.
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Logits (B, T, V) of ids (B, T), or of the inputs of a batch."""
        return self(batch if isinstance(batch, Tensor) else batch[0])

    @rank_zero_only
    def save(self, path: str | Path, tokenizer: Tokenizer | None = None) -> None:
        """Write a `model.safetensors` that all of firstlight reads, as `generate checkpoint=PATH`.

        `tokenizer` is needed if the data was not a `TokenDataModule`.

        Raises:
            ConfigError: the tokenizer is not known.
            RunError: the file cannot be written.
        """
        tokenizer = tokenizer or self.tokenizer
        if tokenizer is None:
            raise ConfigError("save: the tokenizer of the data is not known; give tokenizer=...")
        try:
            with replacing_by_path(Path(path)) as file:
                save_model_file(
                    self.model.state_dict(),
                    file,
                    config=self.config,
                    tokenizer=tokenizer.state_dict(),
                )
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror or error}") from error

    def _begin(self, split: str, n_batches: Any) -> None:
        """Begin to measure what as many loaders read as there are numbers of batches."""
        n_loaders = len(n_batches) if isinstance(n_batches, list) else 1
        self.splits = [split, *(f"{split}_{number}" for number in range(1, n_loaders))]
        super().on_validation_epoch_start()

    def _checked(self, batch: Any, batch_idx: int) -> Batch:
        """`batch`, if it is one that a language model trains on; ids only in the first of a pass.

        Raises:
            ConfigError: it is not.
        """
        # A DataLoader of torch's makes lists of pairs.
        pair = tuple(batch) if isinstance(batch, list | tuple) else ()
        tensors = [part for part in pair if isinstance(part, Tensor) and part.dim() == 2]
        if len(pair) != 2 or len(tensors) != 2 or pair[0].shape != pair[1].shape:
            raise ConfigError(
                "a batch must be (inputs, targets), two tensors (B, T) of token ids, not"
                f" {_described(batch)}"
            )
        inputs, targets = tensors
        if inputs.shape[1] > self.model.context_length:
            raise ConfigError(
                f"a batch has {inputs.shape[1]} tokens a row, above the model's context_length"
                f" ({self.model.context_length})"
            )
        if batch_idx == 0 and inputs.numel() > 0:  # only then, since the device has to answer
            low, high = torch.stack([inputs, targets]).aminmax()
            if int(low) < 0 or int(high) >= self.model.vocab_size:
                raise ConfigError(
                    f"a batch has token ids from {int(low)} to {int(high)}; the model knows 0 to"
                    f" {self.model.vocab_size - 1} (model.vocab_size)"
                )
        return inputs, targets


def _described(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor {tuple(batch.shape)}"
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {', '.join(map(_described, batch)) or 'nothing'}"
    return f"a {type(batch).__name__}"
