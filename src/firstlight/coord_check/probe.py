"""What the layers of a model put out during its first steps, for ids that stay the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.model.base import LanguageModel
from firstlight.training.callbacks.base import Callback
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

MOST_TOKENS = 2048
"""Of the first batch, which are looked at: logits of all of it may not fit into memory."""
LOGITS = "logits"


class Probe(Callback):
    """Keeps the mean size of what each kind of layer puts out, and how far steps have moved it.

    Before the first step and after each, for windows of the first batch, without dropout.
    """

    def __init__(self) -> None:
        self.sizes: list[dict[str, float]] = []
        """By step, the first before any: mean |x| of each kind of layer."""
        self.moves: list[dict[str, float]] = []
        """By step: mean |x - what it was before the first step|."""
        self.ids: Tensor | None = None
        self.before: dict[str, list[Tensor]] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: PretrainingModule, batch: Any, batch_idx: int
    ) -> None:
        if self.ids is not None:
            return
        inputs = batch[0]  # (B, T)
        self.ids = inputs[: max(1, MOST_TOKENS // inputs.shape[1])].clone()
        self.before = self._outputs(trainer, pl_module.model)
        self._keep(self.before)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.at_step_end:
            self._keep(self._outputs(trainer, pl_module.model))

    def _keep(self, outputs: dict[str, list[Tensor]]) -> None:
        self.sizes.append({kind: _mean_size(found) for kind, found in outputs.items()})
        moves = {}
        for kind, found in outputs.items():
            pairs = zip(found, self.before[kind], strict=True)
            moves[kind] = _mean_size([after - before for after, before in pairs])
        self.moves.append(moves)

    @torch.no_grad()
    def _outputs(self, trainer: Trainer, model: LanguageModel) -> dict[str, list[Tensor]]:
        assert self.ids is not None
        was_training = model.training
        model.eval()
        with trainer.precision_plugin.forward_context(), _recorded(model) as found:
            logits = model(self.ids)
        model.train(was_training)
        return {**found, LOGITS: [logits.float()]}


@contextmanager
def _recorded(model: LanguageModel) -> Iterator[dict[str, list[Tensor]]]:
    """What layers put out within it, by kind: the same one of all blocks is a kind."""
    found: dict[str, list[Tensor]] = {}
    handles = []
    for kind, layer in _layers(model):

        def keep(_layer: nn.Module, _inputs: Any, output: Any, kind: str = kind) -> None:
            # A layer may return more, such as the balance of its experts.
            first = output[0] if isinstance(output, tuple) else output
            found.setdefault(kind, []).append(first.float())

        handles.append(layer.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: LanguageModel) -> Iterator[tuple[str, nn.Module]]:
    """Embeddings, the parts of blocks that have matrices, and blocks, each with its kind."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            yield name, module
    for block in model.repeated_blocks:
        for name, part in block.named_children():
            if any(parameter.dim() > 1 for parameter in part.parameters()):
                yield name, part
    for block in model.repeated_blocks:
        yield "block", block


def _mean_size(outputs: list[Tensor]) -> float:
    return float(torch.stack([output.abs().mean() for output in outputs]).mean())
