"""The contract between a model and everything that trains, evaluates or samples from it."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.model.cache import Cache
from firstlight.model.few_rows import replace_linears


class LanguageModel(nn.Module, ABC):
    """Ids (B, T) -> logits (B, T, V): logits at t are for the token at t + 1, and depend on ids up
    to t alone.
    """

    free_settings: ClassVar[frozenset[str]] = frozenset()
    """Constructor arguments that may differ from those of the model whose weights it starts
    from."""

    adopted_settings: ClassVar[frozenset[str]] = frozenset({"vocab_size"})
    """Constructor arguments that are taken from the weights it starts from."""

    vocab_size: int
    context_length: int
    """The most tokens of one sequence, T."""

    @abstractmethod
    def hidden(self, ids: Tensor, cache: Any = None) -> Tensor:
        """The normalised last hidden state (B, T, C) of `ids` (B, T), which follow the tokens in
        `cache`.

        `cache` is one that `new_cache` has made. A model without one may leave it out of its
        signature.
        """

    def hidden_and_auxiliary_loss(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a training step computes: `hidden(ids)`, and a loss of the model itself, or None.

        It is one number, the mean over the tokens of `ids` (a batch in parts weighs each by its
        tokens), and is added to the mean of the loss that is trained. Evaluations do not have it.
        The balance of a mixture of experts is such a loss.
        """
        return self.hidden(ids), None

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """The output matrix (V, C), separate from `hidden` so that a loss can be fused with the
        projection.
        """

    def new_cache(self) -> Cache | None:
        """An empty cache of this model's size; None: it has none, and is sampled by computing all
        tokens again for each new one.
        """
        return None

    def project(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., C)."""
        return F.linear(hidden, self.output_weight)

    def forward(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Logits (B, T, V) of `ids` (B, T)."""
        hidden = self.hidden(ids) if cache is None else self.hidden(ids, cache)
        return self.project(hidden)  # (B, T, V)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.output_weight.device

    def fused(self) -> Self:
        """This model, changed in place for fast inference; its state dict is then not that of a
        checkpoint.

        A second call changes nothing.
        """
        replace_linears(self)
        return self.eval().requires_grad_(False)

    def adapted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """`weights` of a model that differs in `free_settings`, changed to fit this one.

        Raises:
            ValueError: they cannot be made to fit.
        """
        return weights

    @property
    def n_parameters(self) -> int:
        """Number of parameters; one that is used twice (a tied head) counts once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def n_trained(self) -> int:
        """Number of parameters that train: those that are not frozen."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
