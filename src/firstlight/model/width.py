"""Which parameters of a model follow its width."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class WidthParts:
    """The parameters that a parametrization treats by the width of a model, C.

    All others (embeddings, output matrix, biases, the norms of blocks) are the same at any width.
    """

    hidden: Sequence[nn.Parameter]
    """Matrices whose two sides are both in proportion to C, drawn with one deviation at any C."""
    last_norm: Sequence[nn.Parameter]
    """What the last hidden states are multiplied with, and added to them: gain and bias."""
    head_width: int = 1
    """Numbers of a head of attention, the same at any C; 1 if there are no heads."""
