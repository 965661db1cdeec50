"""The metrics of a model on batches of windows."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from firstlight.data.loader import Batch
from firstlight.loss.fused import ROWS, linear_cross_entropy
from firstlight.metrics.base import Metric, Scored
from firstlight.metrics.measured import measured, sums_of, values_of
from firstlight.model.base import LanguageModel


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the block `module` is in evaluation mode, and nothing that is drawn counts."""
    was_training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with isolate_rng():
            yield
    finally:
        for part, mode in was_training.items():
            part.training = mode


class EvaluationModule(pl.LightningModule):
    """A model and how it is measured: every token weighs the same, whatever batch it is in.

    Sums are float64 over all batches and processes. `byte_lengths` (V,) are the bytes each id
    stands for; `metrics` are those of `measured`, None the default.
    """

    takes_empty_shares = True
    """Whether a process may have no window of a batch in an evaluation: it adds nothing then."""

    def __init__(
        self, model: LanguageModel, byte_lengths: Tensor, metrics: Iterable[Metric] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.hidden: Callable[[Tensor], Tensor] = model.hidden
        """Ids (B, T) to the last hidden state (B, T, C): the model's, or that compiled."""
        self.splits = ["val"]
        """What the evaluation loaders read, in their order."""
        # Not persistent: it follows from the tokenizer, and a checkpoint holds the weights of the
        # model.
        self.register_buffer("byte_lengths", byte_lengths, persistent=False)
        self.byte_lengths: Tensor
        self.measured = list(measured(None) if metrics is None else metrics)
        self.metrics: dict[str, float] = {}
        """The result of the last evaluation, by name: `val/loss`, `val/perplexity`, ..."""

    def cross_entropy(self, batch: Batch) -> Tensor:
        """-log p in nats of each target (B * T,), given inputs (B, T) and targets (B, T)."""
        inputs, targets = batch
        return self._cross_entropy(self.hidden(inputs).flatten(0, 1), targets.flatten())

    def scored(self, batch: Batch) -> Scored:
        """What metrics are computed from, given inputs (B, T) and targets (B, T)."""
        inputs, ids = batch[0], batch[1].flatten()
        hidden = self.hidden(inputs).flatten(0, 1)  # (B * T, C)
        return Scored(
            losses=self._cross_entropy(hidden, ids).cpu().double(),  # on MPS there is no float64
            targets=ids.cpu(),
            n_bytes=self.byte_lengths.to(ids.device)[ids].cpu(),
            window_length=batch[1].shape[1],
            predict=partial(self._predictions, hidden),
            rank=partial(self._ranks, hidden, ids),
            times_trained=self.times_trained(ids),
        )

    def times_trained(self, ids: Tensor) -> Tensor | None:
        """How often each of `ids` (N,) was trained on; None: nobody counts."""
        return None

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        weight = self.model.output_weight  # (V, C)
        if weight.is_floating_point():
            return linear_cross_entropy(hidden, weight, targets)  # (B * T,)
        # In 8 bits: its scales are known to the model's own projection alone.
        return F.cross_entropy(self.model.project(hidden).float(), targets, reduction="none")

    def _predictions(self, hidden: Tensor) -> Tensor:
        """The most probable id of each row (B * T,), in chunks: the logits are large."""
        return torch.cat(
            [self.model.project(rows).argmax(dim=-1).cpu() for rows in hidden.split(ROWS)]
        )

    def _ranks(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The place of each target among the ids by their logits (B * T,), in chunks."""
        found: list[Tensor] = []
        for rows, ids in zip(hidden.split(ROWS), targets.split(ROWS), strict=True):
            logits = self.model.project(rows)  # (ROWS, V)
            of_targets = logits.gather(1, ids[:, None])  # (ROWS, 1)
            found.append((1 + (logits > of_targets).sum(dim=1)).cpu())
        return torch.cat(found)

    def parts(self, batch: Batch) -> list[Batch]:
        """What goes through the model at once, one after the other."""
        return [batch]

    def pass_without_windows(self) -> None:
        """What a process does where others have a window to score, and it has none."""

    def on_validation_epoch_start(self) -> None:
        # A row a split. On MPS there is no float64: the sums stay on the CPU.
        n_sums = sum(metric.n_sums for metric in self.measured)
        self.sums = torch.zeros(len(self.splits), n_sums, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.add_sums(self.sums[dataloader_idx], batch, self.measured)

    def add_sums(self, sums: Tensor, batch: Batch, metrics: list[Metric]) -> None:
        """Add the sums of `metrics` over a batch to `sums` (S,)."""
        for scored in self.scored_parts(batch):
            sums += torch.tensor(sums_of(metrics, scored), dtype=torch.float64)

    def scored_parts(self, batch: Batch) -> Iterator[Scored]:
        """Score the windows of a batch, one of its `parts` after another."""
        for part in self.parts(batch):
            if part[1].numel() == 0:  # of a process whose share of a ragged last batch is empty
                self.pass_without_windows()
                continue
            yield self.scored(part)

    def on_validation_epoch_end(self) -> None:
        # Sums are exchanged, not means: shares of a batch may be of unequal size.
        sums = self.over_processes(self.sums)
        self.metrics = {}
        for split, row in zip(self.splits, sums.tolist(), strict=True):
            values = values_of(self.measured, row)
            if "loss" not in values:
                raise ValueError(f"the evaluation of the {split} split saw no token")
            self.metrics |= {f"{split}/{name}": value for name, value in values.items()}

    def over_processes(self, sums: Tensor) -> Tensor:
        """`sums` of this process, added up over all."""
        return self.trainer.strategy.reduce(sums.to(self.reduce_device), reduce_op="sum").cpu()

    @property
    def reduce_device(self) -> Any:
        """Where processes exchange their sums."""
        return "cpu" if self.device.type == "mps" else self.device
