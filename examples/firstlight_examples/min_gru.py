"""A recurrence that is trained in parallel: minGRU (Feng et al. 2024, "Were RNNs all we needed?").

Gate and candidate do not look at the state, so that the states of all places are one scan. A state
has one size however long the text is: each new token costs the same, and no window slides. Shapes:
B batch, T time, C emb_dim, V vocabulary.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from firstlight.config import ContextLength, Ratio, VocabSize
from firstlight.model.base import LanguageModel
from firstlight.model.cache import Cache
from firstlight.model.dropout import Masks, make_dropout


class States(Cache):
    """The last state (B, C) of every layer; None before the first token."""

    can_rewind = False  # a state cannot be made older again

    def __init__(self, n_layers: int) -> None:
        super().__init__(context_length=None)
        self.n_layers = n_layers
        self.states: list[Tensor | None] = [None] * n_layers

    def rewind(self, length: int) -> None:
        super().rewind(length)
        self.states = [None] * self.n_layers

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.states = [None if state is None else state[rows] for state in self.states]


class MinGRU(nn.Module):
    """h = (1 - z) * h_before + z * candidate, with z = sigmoid(gate(x)), for all places at once."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(emb_dim, emb_dim)
        self.candidate = nn.Linear(emb_dim, emb_dim)

    def forward(self, x: Tensor, before: Tensor | None, used: Tensor | None) -> Tensor:
        """States (B, T, C) of `x` (B, T, C), after the state `before` (B, C).

        Where `used` (B, T) is False, the state stays as it was.
        """
        # In logarithms (appendix B of the paper): a product over many places would underflow.
        gate = self.gate(x).float()
        log_keep = -F.softplus(gate)  # log(1 - z)
        log_new = -F.softplus(-gate) + log_positive(self.candidate(x).float())  # log(z * candidate)
        if used is not None:
            log_keep = log_keep.masked_fill(~used[:, :, None], 0.0)
            log_new = log_new.masked_fill(~used[:, :, None], -torch.inf)
        kept = log_keep.cumsum(1)  # (B, T, C): how much of the first state is left
        states = (kept + (log_new - kept).logcumsumexp(1)).exp()
        if before is not None:
            states = states + kept.exp() * before[:, None]
        return states


def log_positive(x: Tensor) -> Tensor:
    """log(g(x)), where g(x) = x + 0.5 for x >= 0, else sigmoid(x): candidates are positive."""
    return torch.where(x >= 0, (F.relu(x) + 0.5).log(), -F.softplus(-x))


class Block(nn.Module):
    """Pre-norm: a minGRU in the place of attention, then a feed-forward."""

    def __init__(self, emb_dim: int, drop_rate: float, masks: Masks) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(emb_dim), nn.LayerNorm(emb_dim)
        self.gru = MinGRU(emb_dim)
        self.gru_out = nn.Linear(emb_dim, emb_dim)
        self.ff = nn.Sequential(
            nn.Linear(emb_dim, 4 * emb_dim), nn.GELU(), nn.Linear(4 * emb_dim, emb_dim)
        )
        self.drop = make_dropout(drop_rate, masks)

    def forward(
        self, x: Tensor, before: Tensor | None, used: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output (B, T, C), and the last state (B, C)."""
        states = self.gru(self.norm1(x), before, used)  # (B, T, C), float32
        x = x + self.drop(self.gru_out(states.to(x.dtype)))
        return x + self.drop(self.ff(self.norm2(x))), states[:, -1]


class MinGRUModel(LanguageModel):
    """A language model of minGRU blocks; `context_length` is that of training."""

    free_settings = frozenset({"context_length", "drop_rate", "dropout"})

    def __init__(
        self,
        *,
        vocab_size: VocabSize,
        context_length: ContextLength,
        emb_dim: Annotated[int, Field(gt=0, le=2**16)],
        n_layers: Annotated[int, Field(gt=0, le=512)],
        drop_rate: Ratio = 0.0,
        tie_weights: bool = True,
        dropout: Masks = "torch",
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.drop_emb = make_dropout(drop_rate, dropout)
        self.blocks = nn.ModuleList(Block(emb_dim, drop_rate, dropout) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(emb_dim)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        if tie_weights:
            self.out_head.weight = self.tok_emb.weight
        nn.init.normal_(self.out_head.weight, std=0.02)

    @property
    def output_weight(self) -> Tensor:
        return self.out_head.weight  # (V, C)

    def hidden(self, ids: Tensor, cache: States | None = None) -> Tensor:
        n_tokens = ids.shape[1]
        used = None if cache is None else cache.used(n_tokens, ids.device)
        x = self.drop_emb(self.tok_emb(ids))  # (B, T, C)
        for layer, block in enumerate(self.blocks):
            x, last = block(x, None if cache is None else cache.states[layer], used)
            if cache is not None:
                cache.states[layer] = last
        if cache is not None:
            cache.advance(n_tokens)
        return self.final_norm(x)

    def new_cache(self) -> States:
        return States(len(self.blocks))
