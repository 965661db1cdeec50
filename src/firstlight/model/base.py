"""The contract between a model and the code that trains, evaluates or samples from it."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.model.cache import Cache
from firstlight.model.few_rows import replace_linears
from firstlight.model.width import WidthParts


class LanguageModel(nn.Module, ABC):
    """Ids (B, T) -> logits (B, T, V), causally.

    Logits at t are for the token at t + 1 and depend only on ids up to t.
    """

    free_settings: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the constructor that may differ from those of the weights to start from."""

    adopted_settings: ClassVar[frozenset[str]] = frozenset({"vocab_size"})
    """Arguments of the constructor that are taken from the weights to start from."""

    vocab_size: int
    context_length: int
    """The largest T, the number of tokens in a sequence."""

    @abstractmethod
    def hidden(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Compute the normalised last hidden states (B, T, C) of `ids` (B, T).

        `ids` follow the tokens in `cache`, to which they are added. `cache` was made by
        `new_cache`; a model without one may omit it from its signature.
        """

    def hidden_and_auxiliary_loss(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute `hidden(ids)` for a training step, and a loss of the model itself, or None.

        The auxiliary loss, such as the load balance of a mixture of experts, is one number: the
        mean over the tokens of `ids` (a batch in parts weights each part by its tokens). It is
        added to the mean of the training loss; evaluations do not include it.
        """
        return self.hidden(ids), None

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """The output matrix (V, C).

        It is apart from `hidden` so that a loss can be fused with the projection.
        """

    def new_cache(self) -> Cache | None:
        """Make an empty cache of this model's size, or None if it has none.

        A model without a cache generates by recomputing all tokens for each new one.
        """
        return None

    def project(self, hidden: Tensor) -> Tensor:
        """Project hidden states (..., C) to logits (..., V)."""
        return F.linear(hidden, self.output_weight)  # (..., C) @ (C, V)

    def forward(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Compute the logits (B, T, V) of `ids` (B, T)."""
        hidden = self.hidden(ids) if cache is None else self.hidden(ids, cache)
        return self.project(hidden)  # (B, T, V)

    def width_parts(self) -> WidthParts:
        """The parameters that follow the width of this model, for `parametrization=mup`.

        Raises:
            ValueError: this model does not say, or its first weights follow the width already.
        """
        raise ValueError(
            f"{type(self).__name__} does not say which of its parameters follow its width; define"
            " width_parts in it, or leave parametrization out"
        )

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """The parts that a pass goes through one after the other, each with most of its weights.

        Those of the longest ModuleList, unless a model says otherwise. (Not named `blocks`: a model
        may have an attribute of that name.)
        """
        lists = [module for module in self.modules() if isinstance(module, nn.ModuleList)]
        return list(max(lists, key=len, default=nn.ModuleList()))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.output_weight.device

    def fused(self) -> Self:
        """Change this model in place for fast inference, and return it; call it once or more.

        Its state dict is then no longer that of a checkpoint.
        """
        replace_linears(self)
        # Frozen: torch keeps no graph then, even outside of no_grad.
        return self.eval().requires_grad_(False)

    def adapted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change `weights` of a model that differs in `free_settings` to fit this one.

        Raises:
            ValueError: they cannot be made to fit.
        """
        return weights

    @property
    def n_parameters(self) -> int:
        """The number of parameters; a tied head counts once."""
        # parameters() yields a shared one once.
        return sum(p.numel() for p in self.parameters())

    @property
    def n_trained(self) -> int:
        """Number of parameters that train: those that are not frozen."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
