"""The norm of the weights of each part of the model, to see which of them grow."""

from typing import Any

import torch

from firstlight.training.callbacks.base import Watcher
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer


class WeightNorms(Watcher):
    """Logs `weight_norm/PART`, the 2-norm of the parameters of each part, such as tok_emb."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.is_log_step:
            return
        for name, part in pl_module.model.named_children():
            norms = [parameter.detach().norm() for parameter in part.parameters()]
            if norms:  # dropout has no parameters
                trainer.collect({f"weight_norm/{name}": float(torch.stack(norms).norm())})
