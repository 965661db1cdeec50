"""What stands for the model of `init_from` in a config: model=same."""

from typing import Annotated

from pydantic import Field

from firstlight.config import ContextLength, Ratio
from firstlight.model.base import LanguageModel
from firstlight.model.dropout import Masks


class SameModel(LanguageModel):
    """The model whose weights `init_from` names; what is not None differs from it.

    It is never built: `training/start.py: take_same_model` puts the section of that model in its
    place, before the config is checked.
    """

    def __init__(
        self,
        *,
        context_length: ContextLength | None = None,
        n_heads: Annotated[int, Field(gt=0, le=2**16)] | None = None,
        drop_rate: Ratio | None = None,
        tie_weights: bool | None = None,
        dropout: Masks | None = None,
    ) -> None:
        raise ValueError(WITHOUT)


WITHOUT = "model=same is the model of init_from: give init_from=RUN, gpt2, hf:FOLDER, ..."
TARGET = f"{SameModel.__module__}.{SameModel.__name__}"
