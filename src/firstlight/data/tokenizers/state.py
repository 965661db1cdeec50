"""A tokenizer as it is stored: in checkpoints, and beside prepared data."""

from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt


class TokenizerState(BaseModel):
    """See `Tokenizer.state_dict`."""

    name: str
    pattern: str
    tokens: list[Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]]
    end_of_text: NonNegativeInt
    vocab_size: PositiveInt

    @property
    def ids(self) -> int:
        """Number of ids with a token, including the special one."""
        return sum(map(bool, self.tokens)) + 1
