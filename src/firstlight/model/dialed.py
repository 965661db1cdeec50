"""A modern decoder of which one number is chosen."""

from typing import Annotated

from pydantic import Field

from firstlight.config import ContextLength, Ratio, VocabSize
from firstlight.dial import HEAD, MAX_DEPTH
from firstlight.model.dropout import Masks
from firstlight.model.modern import ModernGPT


class DialedGPT(ModernGPT):
    """`ModernGPT` with `depth` blocks of `depth` heads, each 64 wide; docs/dial.md."""

    free_settings = frozenset({"context_length", "drop_rate", "dropout"})
    adopted_settings = frozenset({"vocab_size"})

    def __init__(
        self,
        *,
        depth: Annotated[int, Field(gt=0, le=MAX_DEPTH)],
        vocab_size: VocabSize,
        context_length: ContextLength,
        drop_rate: Ratio = 0.0,
        dropout: Masks = "torch",
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            context_length=context_length,
            emb_dim=HEAD * depth,
            n_heads=depth,
            n_layers=depth,
            drop_rate=drop_rate,
            dropout=dropout,
        )
