"""The contract between a model and everything that trains, evaluates or samples from it."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.model.cache import KVCache
from firstlight.model.few_rows import replace_linears


class LanguageModel(nn.Module, ABC):
    """Ids (B, T) -> logits (B, T, V): logits at t are for the token at t + 1, and depend on ids up to t alone."""

    free_settings: ClassVar[frozenset[str]] = frozenset()
    """Constructor arguments that may differ from those that the weights it starts from were made with."""

    adopted_settings: ClassVar[frozenset[str]] = frozenset({"vocab_size"})
    """Constructor arguments that follow from the weights it starts from."""

    vocab_size: int
    context_length: int
    """The most tokens of one sequence, T."""

    @abstractmethod
    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """The normalised last hidden state (B, T, C) of `ids` (B, T), which follow what `cache` holds."""

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """The output matrix (V, C): apart from `hidden`, so that a loss can be fused with the projection."""

    @abstractmethod
    def new_cache(self) -> KVCache:
        """An empty cache of this model's size."""

    def project(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., C)."""
        return F.linear(hidden, self.output_weight)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of `ids` (B, T)."""
        return self.project(self.hidden(ids, cache))  # (B, T, V)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_weight.device

    def fused(self) -> Self:
        """This model, in place, ready to infer alone: faster where it can be; its state dict is no checkpoint's.

        Once is enough; a second call changes nothing.
        """
        replace_linears(self)
        return self.eval().requires_grad_(False)

    def adapted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """`weights` of a model that differs in `free_settings`, as this one takes them.

        Raises:
            ValueError: they differ in a way that cannot be made up for.
        """
        return weights

    @property
    def n_parameters(self) -> int:
        """Parameters, each counted once however often it is used (a tied head)."""
        return sum(p.numel() for p in self.parameters())
