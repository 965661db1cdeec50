"""The base of `GPT` and `ModernGPT`: how they are projected, cached, fused and tied."""

from typing import Self

import torch
from torch import Tensor, nn

from firstlight.model.attention import CausalSelfAttention
from firstlight.model.base import LanguageModel
from firstlight.model.cache import KVCache
from firstlight.model.width import WidthParts


class Transformer(LanguageModel):
    """A model of `trf_blocks` between `tok_emb` and `out_head`, which may share a matrix (tied)."""

    tok_emb: nn.Embedding
    trf_blocks: nn.ModuleList
    final_norm: nn.Module
    out_head: nn.Linear

    @property
    def output_weight(self) -> Tensor:
        return self.out_head.weight  # (V, C)

    def project(self, hidden: Tensor) -> Tensor:
        # Through the layer, not `output_weight`: in 8 bits only the layer knows its scales.
        return self.out_head(hidden)

    def new_cache(self) -> KVCache:
        return KVCache(n_layers=len(self.trf_blocks), context_length=self.context_length)

    def fused(self) -> Self:
        for module in list(self.modules()):
            if isinstance(module, CausalSelfAttention):
                module.fuse()
        return super().fused()

    def adapted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Complete `weights` of a tied or untied model with embedding and head for this one.

        Raises:
            ValueError: the weights are untied while this model is tied.
        """
        # A safetensors file of a tied model has one of the two names: a tensor is stored once.
        embedding = weights.get("tok_emb.weight", weights.get("out_head.weight"))
        if embedding is None:
            # Of another kind of model: loading them will say what is missing.
            return weights
        head = weights.get("out_head.weight", embedding)
        is_tied = self.out_head.weight is self.tok_emb.weight
        if is_tied and not torch.equal(head, embedding):
            raise ValueError(
                "tie_weights must be false: the weights to start from have an output head of their"
                " own"
            )
        return {**weights, "tok_emb.weight": embedding, "out_head.weight": head}


def matrices_of_blocks(model: Transformer, head_width: int) -> WidthParts:
    """The parts of a model whose blocks have no other matrices than those between its widths."""
    # Not for every transformer: the router of a mixture of experts has a side of a fixed size.
    hidden = [p for p in model.trf_blocks.parameters() if p.dim() == 2]
    return WidthParts(hidden, list(model.final_norm.parameters()), head_width)
