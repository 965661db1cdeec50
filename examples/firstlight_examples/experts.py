"""A GPT whose feed-forwards are mixtures of experts (Fedus et al. 2021, "Switch transformers").

Every token goes through the `n_active` experts that its router holds for most probable. None is
turned away: a limit to the tokens of an expert would let a token depend on those after it. Shapes:
B batch, T time, C emb_dim, E experts, V vocabulary.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from firstlight.config import ContextLength, FiniteNonNegative, Ratio, VocabSize
from firstlight.model.cache import KVCache, positions_and_mask
from firstlight.model.dropout import Masks, make_dropout
from firstlight.model.gpt import FeedForward, MultiHeadAttention
from firstlight.model.transformer import Transformer


class Experts(nn.Module):
    """Feed-forwards, of which each token has a few, weighted by their probabilities."""

    def __init__(self, emb_dim: int, n_experts: int, n_active: int) -> None:
        super().__init__()
        self.n_active = n_active
        self.router = nn.Linear(emb_dim, n_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(emb_dim) for _ in range(n_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output (B, T, C), and how unevenly the tokens are spread: 1 if all experts get alike.

        That is the loss of Fedus et al. 2021, equation 4, without its factor alpha.
        """
        tokens = x.flatten(0, 1)  # (B * T, C)
        probs = self.router(tokens).float().softmax(dim=-1)  # (B * T, E)
        weights, chosen = probs.topk(self.n_active, dim=-1)  # (B * T, n_active) each
        output = torch.zeros_like(tokens)
        shares = []
        for number, expert in enumerate(self.experts):
            rows, ranks = (chosen == number).nonzero(as_tuple=True)
            given = expert(tokens[rows]) * weights[rows, ranks, None]
            output = output.index_add(0, rows, given.to(output.dtype))
            shares.append(len(rows) / chosen.numel())
        mean_probs = probs.mean(dim=0)  # (E,)
        balance = len(self.experts) * (mean_probs.new_tensor(shares) * mean_probs).sum()
        return output.view(x.shape), balance


class Block(nn.Module):
    """GPT-2's block, with experts in the place of the feed-forward."""

    def __init__(
        self,
        emb_dim: int,
        n_heads: int,
        n_experts: int,
        n_active: int,
        drop_rate: float,
        masks: Masks,
    ) -> None:
        super().__init__()
        self.att = MultiHeadAttention(emb_dim, n_heads, drop_rate, qkv_bias=False, masks=masks)
        self.experts = Experts(emb_dim, n_experts, n_active)
        self.norm1, self.norm2 = nn.LayerNorm(emb_dim), nn.LayerNorm(emb_dim)
        self.drop = make_dropout(drop_rate, masks)

    def forward(
        self, x: Tensor, layer: int, cache: KVCache | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output (B, T, C), and the balance of the experts."""
        x = x + self.drop(self.att(self.norm1(x), layer, cache, mask))
        mixed, balance = self.experts(self.norm2(x))
        return x + self.drop(mixed), balance


class ExpertsGPT(Transformer):
    """A GPT of such blocks; training adds `balance_weight` times the mean balance of the layers.

    `compile=true` takes minutes before the first step: each expert of each layer gets kernels of
    its own, which take any number of tokens.

    Raises:
        ValueError: `emb_dim` is not divisible by `n_heads`, or there are fewer experts than active
            ones.
    """

    free_settings = frozenset(
        {"context_length", "drop_rate", "tie_weights", "dropout", "balance_weight"}
    )

    def __init__(
        self,
        *,
        vocab_size: VocabSize,
        context_length: ContextLength,
        emb_dim: Annotated[int, Field(gt=0, le=2**16)],
        n_heads: Annotated[int, Field(gt=0, le=2**16)],
        n_layers: Annotated[int, Field(gt=0, le=512)],
        n_experts: Annotated[int, Field(gt=0, le=1024)] = 8,
        n_active: Annotated[int, Field(gt=0, le=1024)] = 2,
        balance_weight: FiniteNonNegative = 0.01,
        drop_rate: Ratio = 0.0,
        tie_weights: bool = True,
        dropout: Masks = "torch",
    ) -> None:
        if emb_dim % n_heads:
            raise ValueError(f"emb_dim ({emb_dim}) must be divisible by n_heads ({n_heads})")
        if n_active > n_experts:
            raise ValueError(f"n_active ({n_active}) must be at most n_experts ({n_experts})")
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.balance_weight = balance_weight
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.pos_emb = nn.Embedding(context_length, emb_dim)
        self.drop_emb = make_dropout(drop_rate, dropout)
        self.trf_blocks = nn.ModuleList(
            Block(emb_dim, n_heads, n_experts, n_active, drop_rate, dropout)
            for _ in range(n_layers)
        )
        self.final_norm = nn.LayerNorm(emb_dim)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        if tie_weights:
            self.out_head.weight = self.tok_emb.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        return self._computed(ids, cache)[0]

    def hidden_and_auxiliary_loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, balance = self._computed(ids, None)
        return hidden, self.balance_weight * balance

    def _computed(self, ids: Tensor, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        """The last hidden state (B, T, C), and the mean balance of the layers."""
        n_tokens = ids.shape[1]
        positions, mask = positions_and_mask(n_tokens, ids.device, cache)
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))  # (B, T, C)
        balances = []
        for layer, block in enumerate(self.trf_blocks):
            x, balance = block(x, layer, cache, mask)
            balances.append(balance)
        if cache is not None:
            cache.advance(n_tokens)
        return self.final_norm(x), torch.stack(balances).mean()
