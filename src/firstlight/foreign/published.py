"""The contract of an architecture whose published models can be read."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from firstlight.errors import shorten, shown

Size = Annotated[int, Field(gt=0, lt=2**63)]
"""The size of one axis, up to torch's largest."""


class Published(BaseModel, ABC):
    """A model's `config.json`. Defaults are those of transformers' class of the same name."""

    model_config = ConfigDict(strict=True)

    title: ClassVar[str]
    prefix: ClassVar[str]
    """Prefix of all parameter names except the head's; `shapes` and `weights` leave it out."""
    embedding: ClassVar[str]
    depth_key: ClassVar[str]
    no_weights: ClassVar[re.Pattern[str]]
    """Names of buffers that older versions saved."""
    has_default_tokenizer: ClassVar[bool] = False
    """Whether GPT-2's tokenizer is used when a folder has none."""

    vocab_size: Size
    tie_word_embeddings: bool

    @abstractmethod
    def check(self) -> None:
        """Refuse values that contradict each other, or that firstlight does not support.

        Raises:
            ValueError: names the first of them.
        """

    @abstractmethod
    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every parameter, the embedding first.

        The head is left out if it is the embedding.
        """

    @abstractmethod
    def weights(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Our state dict, in float32 and in memory of its own.

        `read` returns the tensor of a name. It is called once for each name, and its result is not
        kept: at most one tensor exists beside the copies.
        """

    @abstractmethod
    def section(self) -> dict[str, Any]:
        """The `model` section of our config."""

    def note(self) -> str | None:
        """A note on what `section` cannot express; None if it expresses everything."""
        return None


def own_float32(tensor: Tensor) -> Tensor:
    """A contiguous copy in float32."""
    # copy_ and not .float(): that would return a float32 tensor itself, which may be mapped from
    # the file.
    return torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)


def untied_head(weights: dict[str, Tensor]) -> Tensor | None:
    """The output matrix (V, C) of our `weights`; None if it is the embedding."""
    head = weights.get("out_head.weight")
    if head is None or head.data_ptr() == weights["tok_emb.weight"].data_ptr():
        return None
    return head


def first_problem(error: ValidationError) -> str:
    """The first key that is wrong, its value, and what it should be."""
    # pydantic lists all problems; one line has room for the first.
    problem = error.errors(include_url=False)[0]
    key = shorten(".".join(map(str, problem["loc"])))
    rule = shorten(problem["msg"].replace("Input", "it", 1), 200)
    if not key:
        return rule
    if problem["type"] == "missing":
        return f"{key}: {rule}"
    return f"{key} ({shown(problem['input'])}): {rule}"
