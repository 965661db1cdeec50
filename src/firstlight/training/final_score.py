"""The test split, scored once, when a run ends: with its best weights, and to choose nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from firstlight.checkpoints.checkpoint import load_weights
from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.data.token_data import TokenDataModule, share_of
from firstlight.errors import DivergedError
from firstlight.metrics.measured import sums_of, values_of
from firstlight.sources import load_checkpoint
from firstlight.training.module import PretrainingModule
from firstlight.training.sharding import ShardedStrategy
from firstlight.training.stopping import Stopped
from firstlight.training.trainer import Trainer

if TYPE_CHECKING:
    from firstlight.statistics import Interval

CONFIDENCE = 0.95
NOT_FINITE, WITHOUT_SCORE = "test/loss is", "data.test_batches=0"
"""How the message begins of a run that is complete but for its score, and what ends it."""
LEAST_BLOCK, MOST_BLOCKS = 16, 256
"""Tokens of a block of text at least, and the most blocks: between them the loss is known, and how
much it varies from text to text."""


@dataclass(frozen=True)
class FinalScore:
    """What the test split says of the weights of `step`."""

    metrics: dict[str, float]
    """`test/loss`, ...: the metrics of the run, and `test/loss_error`, half of the interval."""
    interval: Interval | None
    """Where the loss would be on other text of this kind, with CONFIDENCE; None: too little."""
    step: int
    is_best: bool
    """Whether these are the best weights; else the last, as a run without checkpoints keeps no
    others."""


def score(module: PretrainingModule) -> FinalScore | None:
    """Score the test split with the best weights, all processes together; None without one.

    The best weights stay in the model.

    Raises:
        DivergedError: the loss is not finite.
        Stopped: a signal came; the run is saved, and is scored when it is resumed.
    """
    trainer = module.trainer
    # A callback's error ends the run in another way; that of one process alone would leave the
    # others waiting for it.
    if not module.data.has_test or trainer.agreed(int(trainer.failure is not None)):
        return None
    best = _take_best_weights(module)
    step = module.trainer.global_step if best is None else best
    sums, blocks = _sums(module)
    values = values_of(module.measured, sums.tolist())
    if not math.isfinite(values.get("loss", math.nan)):
        raise DivergedError(
            f"{NOT_FINITE} {values.get('loss')} with the weights of step {step}; resume with"
            f" {WITHOUT_SCORE} to end the run without it"
        )
    from firstlight.statistics import mean_over_text  # late: scipy takes a second to import

    totals, counts = blocks[blocks[:, 1] > 0].T.numpy()
    interval = mean_over_text(totals / counts, counts, CONFIDENCE)
    metrics = {f"test/{name}": value for name, value in values.items()}
    if interval is not None:
        metrics["test/loss_error"] = interval.high - interval.mean
    return FinalScore(metrics, interval, step, is_best=best is not None)


def _take_best_weights(module: PretrainingModule) -> int | None:
    """Load the best weights and return their step; None: no checkpoint keeps them."""
    trainer = module.trainer
    saved = checkpoints_of(trainer.folder)
    # The first process removes checkpoints, so that it knows which one stays.
    best: Path | None = trainer.strategy.broadcast(best_of(saved) if saved else None)
    if best is None:
        return None
    weights = load_checkpoint(best)
    if isinstance(trainer.strategy, ShardedStrategy):
        named = {f"model.{name}": tensor for name, tensor in weights.state_dict.items()}
        trainer.strategy.take_weights(named)
    else:
        load_weights(module.model, weights)
    return int(best.name.removeprefix("step_"))


def _sums(module: PretrainingModule) -> tuple[Tensor, Tensor]:
    """The sums of all metrics (S,), and loss and tokens of each block of the text (blocks, 2)."""
    trainer, data = module.trainer, module.data
    n_tokens = data.n_final
    n_blocks = min(MOST_BLOCKS, max(n_tokens // LEAST_BLOCK, 1))
    sums = torch.zeros(sum(metric.n_sums for metric in module.measured), dtype=torch.float64)
    blocks = torch.zeros(n_blocks, 2, dtype=torch.float64)
    share = trainer.global_rank, trainer.world_size
    module.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for number, batch in enumerate(data.final_batches(share)):
            _check_signals(trainer)
            own = share_of(_places(data, number), *share)  # (B,)
            on_device = module.transfer_batch_to_device(batch, module.device, 0)
            for scored in module.scored_parts(on_device):
                sums += torch.tensor(sums_of(module.measured, scored), dtype=torch.float64)
                n_windows = len(scored.losses) // scored.window_length
                of_part, own = own[:n_windows], own[n_windows:]
                tokens = of_part[:, None] + torch.arange(scored.window_length)  # (B, T)
                block_of = (tokens * n_blocks // n_tokens).flatten()  # (B * T,)
                blocks[:, 0].index_add_(0, block_of, scored.losses)
                blocks[:, 1].index_add_(0, block_of, torch.ones_like(scored.losses))
    both = module.over_processes(torch.cat([sums, blocks.flatten()]))
    return both[: len(sums)], both[len(sums) :].view(-1, 2)


def _places(data: TokenDataModule, number: int) -> Tensor:
    """The first token of each window of a batch (B,), counted among those that are scored."""
    n_windows = data.n_final // data.context_length
    # The shorter window at the end is a batch of its own, after all others.
    first = min(number * data.batch_size, n_windows)
    end = max(min(first + data.batch_size, n_windows), first + 1)
    return torch.arange(first, end) * data.context_length


def _check_signals(trainer: Trainer) -> None:
    """End the run if a signal has come to any of its processes: the last step is saved."""
    trainer.advance()
    if signum := trainer.agreed(trainer.stop_signals.received):
        raise Stopped(signum)
