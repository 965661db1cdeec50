"""Bytes as tokens: no vocabulary to learn or download."""

from typing import Annotated

import numpy as np
import tiktoken
from pydantic import Field

from firstlight.data.tokenizers.base import END_OF_TEXT, Tokenizer


class BytesTokenizer(Tokenizer):
    """Ids 0 to 255 are bytes, 256 is `<|endoftext|>`."""

    def __init__(self, *, vocab_size: Annotated[int, Field(ge=257, le=2**20)] = 257) -> None:
        self.vocab_size = vocab_size

    def build(self, documents: list[str]) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            name="bytes",
            # Nothing is merged, so each character may be a word of its own.
            pat_str=r"[\s\S]",
            mergeable_ranks={bytes([i]): i for i in range(256)},
            special_tokens={END_OF_TEXT: 256},
        )

    def _encode_piece(self, text: str) -> np.ndarray:
        # The same ids as the encoding's, without its cost per character.
        return np.frombuffer(text.encode(), dtype=np.uint8)
