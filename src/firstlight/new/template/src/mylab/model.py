"""GPT-2 with a power of ReLU in place of GELU; So et al. 2021 ("Primer", section 3) square it."""

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from firstlight.model.gpt import GPT, TransformerBlock


class ReluPower(nn.Module):
    """max(x, 0) ** power."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() ** self.power


class PowerGPT(GPT):
    """GPT-2 whose feed-forward layers have the activation `ReluPower`.

    The arguments of the constructor are the keys of conf/model/mylab.yaml, and their types say
    which values are allowed. `**kwargs` are those of GPT.
    """

    def __init__(self, *, power: Annotated[int, Field(ge=1, le=4)] = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for block in self.trf_blocks:
            assert isinstance(block, TransformerBlock)
            block.ff.layers[1] = ReluPower(power)
