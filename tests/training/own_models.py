"""Models of a user's, each with something that a checkpoint does not hold, or cannot."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from firstlight.model.gpt import GPT


class Offsets(GPT):
    """Adds a buffer, which `made` fills, to the hidden states."""

    persistent = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.offsets: Tensor
        self.register_buffer("offsets", self.made(), persistent=self.persistent)

    def made(self) -> Tensor:
        return torch.linspace(-1, 1, self.tok_emb.embedding_dim)  # (C,)

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) + self.offsets


class FilledOffsets(Offsets):
    def made(self) -> Tensor:
        offsets = torch.empty(self.tok_emb.embedding_dim)
        offsets[:] = 0.5
        return offsets


class AttributeOffsets(GPT):
    """As some tutorials have it: a tensor that is no buffer, in a list."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.kept = [torch.ones(self.tok_emb.embedding_dim)]

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) + self.kept[0]


class Number(GPT):
    """Looks at a number in its constructor, which the meta device does not have."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor = float(torch.linspace(0, 2, 3)[1])

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) * self.factor


class Counts(Offsets):
    """A persistent buffer of integers, and one with minus infinity."""

    persistent = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register_buffer("places", torch.arange(4))
        self.register_buffer("barred", torch.full((2, 2), -torch.inf).triu(1))


class TiedLocally(GPT):
    """One parameter is registered under two names, neither of which comes from the other."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"tie_weights": False})
        weight = nn.Parameter(torch.randn_like(self.tok_emb.weight) * 0.02)
        self.tok_emb.weight = weight
        self.out_head.weight = weight
        self.register_buffer("unit", torch.ones(()), persistent=False)


class Parametrized(GPT):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for block in self.trf_blocks:
            parametrizations.weight_norm(block.ff.layers[0])
            parametrizations.spectral_norm(block.ff.layers[2])


class Plain(GPT):
    """Without biases, and with RMSNorm: layers of the parent that are made and thrown away."""

    looks = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.looks:
            self.factor = float(torch.ones(()))
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    child.bias = None
                elif isinstance(child, nn.LayerNorm) or "norm" in name:
                    setattr(module, name, nn.RMSNorm(settings["emb_dim"]))


class PlainNumber(Plain):
    """The same, made on the CPU."""

    looks = True


class Scratch(GPT):
    """Makes five times the parameters that it keeps: no guard could tell it from a hostile file."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        n_kept = sum(1 for _ in self.parameters())
        self.more = nn.ParameterList([torch.zeros(1) for _ in range(4 * n_kept)])
        del self.more


def nano(**settings: Any) -> GPT:
    """A function that makes a model."""
    return Offsets(**settings)


class DrawnOffsets(Offsets):
    def made(self) -> Tensor:
        return torch.randn(self.tok_emb.embedding_dim)


class WeightOffsets(Offsets):
    def made(self) -> Tensor:
        return self.tok_emb.weight.detach().mean(0)


class LargestWeight(GPT):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.largest = float(self.tok_emb.weight.detach().max())


class Lazy(GPT):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.late = nn.LazyLinear(4)


class TwoInOnePlace(GPT):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"tie_weights": False})
        self.out_head.weight = nn.Parameter(self.tok_emb.weight)


class Changing(GPT):
    """Another shape each time it is made."""

    times = 0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        type(self).times += 1
        self.more = nn.Parameter(torch.zeros(self.times))


class Balanced(GPT):
    """A loss of its own, of one parameter that nothing else has to do with; it may look at numbers."""

    weight = 0.25
    looks = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.balance = nn.Parameter(torch.ones(()))

    def hidden(self, ids, cache=None):
        if self.looks:
            ids = ids.clamp(max=int(ids.max()))
        return super().hidden(ids, cache)

    def hidden_and_auxiliary_loss(self, ids):
        return self.hidden(ids), self.weight * self.balance
