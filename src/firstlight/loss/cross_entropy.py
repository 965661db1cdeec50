"""Cross-entropy of the next token, optionally with z-loss and label smoothing."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from firstlight.config import Ratio
from firstlight.loss.base import Loss
from firstlight.loss.fused import ToGradients, linear_cross_entropy, logits_to_gradients


class CrossEntropy(Loss):
    """-log p(target) in nats, with z-loss and label smoothing if they are above 0.

    `z_loss` weights (log Z)^2, where Z is the sum of the exponentials of the logits; it keeps
    logits from drifting (1e-4 in PaLM, Chowdhery et al. 2022, section 5). `label_smoothing` is the
    share of the target's probability that is spread over all ids, as in
    torch.nn.functional.cross_entropy (Szegedy et al. 2016, section 7).
    """

    def __init__(
        self, *, z_loss: Annotated[float, Field(ge=0, le=1)] = 0.0, label_smoothing: Ratio = 0.0
    ) -> None:
        self.z_loss, self.label_smoothing = z_loss, label_smoothing
        self.to_gradients: ToGradients = logits_to_gradients

    def compile(self) -> None:
        # Sizes are dynamic: a step's last rows are fewer, and each size would be compiled anew.
        self.to_gradients = torch.compile(logits_to_gradients, fullgraph=True, dynamic=True)

    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        # Always the fused one: with both weights at 0 its losses are those of F.cross_entropy.
        return linear_cross_entropy(
            hidden,
            output_weight,
            targets,
            z_loss=self.z_loss,
            label_smoothing=self.label_smoothing,
            to_gradients=self.to_gradients,
        )
