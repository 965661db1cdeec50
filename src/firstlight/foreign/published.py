"""The contract of an architecture whose published models are read."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from firstlight.foreign.gpt2 import Size


class Published(BaseModel, ABC):
    """What must be so in a `config.json`, as fields; the defaults are those of transformers' class of this name."""

    model_config = ConfigDict(strict=True)

    title: ClassVar[str]
    prefix: ClassVar[str]
    """Of the names of all tensors but the head; below they are without it."""
    embedding: ClassVar[str]
    depth_key: ClassVar[str]
    no_weights: ClassVar[re.Pattern[str]]
    """Names of buffers that older versions have saved."""
    has_default_tokenizer: ClassVar[bool] = False
    """Is it GPT-2's where a folder has none?"""

    vocab_size: Size
    tie_word_embeddings: bool

    @abstractmethod
    def check(self) -> None:
        """Refuse values that do not fit each other, or that cannot be computed here.

        Raises:
            ValueError: the first of them.
        """

    @abstractmethod
    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every parameter with its shape, the embedding first; the head if it is not the embedding."""

    @abstractmethod
    def weights(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Our state dict, in float32; `read` returns the tensor of a name, and is called once for each."""

    @abstractmethod
    def section(self) -> dict[str, Any]:
        """The `model` section of our config."""

    def note(self) -> str | None:
        """What of it is told otherwise in `section`, in words."""
        return None
