"""Loss, perplexity and bits per byte of a model on batches of windows."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.data.datamodule import Batch
from firstlight.loss.fused import linear_cross_entropy
from firstlight.model.base import LanguageModel

METRICS = [f"{split}/{name}" for split in ("train", "val") for name in ("loss", "perplexity", "bits_per_byte")]
"""What an evaluation measures."""


def perplexity(loss: float) -> float:
    """exp of a mean negative log-likelihood in nats a token; inf where that is beyond a float."""
    return math.exp(loss) if loss < 709 else math.inf


def bits_per_byte(nats: float, n_bytes: float) -> float:
    """Comparable between tokenizers: the whole loss in bits, over the bytes of text that were predicted."""
    return nats / math.log(2) / n_bytes


class EvaluationModule(pl.LightningModule):
    """A model and how it is measured: every token weighs the same, whatever batch it is in.

    Sums are float64 over all batches and processes. `byte_lengths` (V,) are the bytes each id stands for.
    """

    def __init__(self, model: LanguageModel, byte_lengths: Tensor) -> None:
        super().__init__()
        self.model = model
        self.hidden: Callable[[Tensor], Tensor] = model.hidden
        """Ids (B, T) to the last hidden state (B, T, C): the model's, or that compiled."""
        self.splits = ["val"]
        """What the evaluation loaders read, in their order."""
        self.register_buffer("byte_lengths", byte_lengths, persistent=False)
        self.byte_lengths: Tensor
        self.metrics: dict[str, float] = {}
        """The result of the last evaluation, by name: `val/loss`, `val/perplexity`, ..."""

    def cross_entropy(self, batch: Batch) -> Tensor:
        """-log p in nats of each target (B * T,), given inputs (B, T) and targets (B, T)."""
        inputs, targets = batch
        hidden, weight = self.hidden(inputs).flatten(0, 1), self.model.output_weight  # (B * T, C), (V, C)
        if weight.is_floating_point():
            return linear_cross_entropy(hidden, weight, targets.flatten())  # (B * T,)
        # In 8 bits: its scales are known to the model's own projection alone.
        return F.cross_entropy(self.model.project(hidden).float(), targets.flatten(), reduction="none")

    def parts(self, batch: Batch) -> list[Batch]:
        """What goes through the model at once, one after the other."""
        return [batch]

    def on_validation_epoch_start(self) -> None:
        # A row a split: sum of nats, tokens, bytes of text. On MPS there is no float64: those sums stay on the CPU.
        self.sums = torch.zeros(len(self.splits), 3, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch[1].numel() == 0:  # a process whose share of a ragged last batch is empty
            return
        for part in self.parts(batch):
            targets = part[1]
            n_bytes = self.byte_lengths.to(targets.device)[targets].sum()
            row = [self.cross_entropy(part).cpu().double().sum(), targets.numel(), n_bytes]
            self.sums[dataloader_idx] += torch.tensor([float(x) for x in row], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        sums = self.trainer.strategy.reduce(self.sums.to(self.reduce_device), reduce_op="sum").cpu()
        self.metrics = {}
        for split, (nats, tokens, n_bytes) in zip(self.splits, sums.tolist(), strict=True):
            if not tokens:
                raise ValueError(f"the evaluation of the {split} split saw no token")
            loss = nats / tokens
            self.metrics |= {f"{split}/loss": loss, f"{split}/perplexity": perplexity(loss)}
            if n_bytes:
                self.metrics[f"{split}/bits_per_byte"] = bits_per_byte(nats, n_bytes)

    @property
    def reduce_device(self) -> Any:
        """Where processes exchange their sums."""
        return "cpu" if self.device.type == "mps" else self.device
