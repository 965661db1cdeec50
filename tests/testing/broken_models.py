"""Models with one fault each, which raises nothing by itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.model.base import LanguageModel
from firstlight.model.cache import Cache, KVCache
from firstlight.model.gpt import GPT

SIZES = {"vocab_size": 31, "context_length": 12, "emb_dim": 12, "n_heads": 3, "n_layers": 1}


class Plain(GPT):
    """Nothing is broken."""

    def __init__(self):
        super().__init__(**SIZES, drop_rate=0.1)


class NotAModel(nn.Module):
    vocab_size, context_length = 31, 12


class WrongShape(Plain):
    @property
    def output_weight(self) -> Tensor:
        return self.out_head.weight.T


class Unregistered(Plain):
    def __init__(self):
        super().__init__()
        self.scale = torch.ones(12)


class Drops(Plain):
    """Dropout in evaluation."""

    def hidden(self, ids, cache=None):
        return F.dropout(super().hidden(ids, cache), 0.1)


class DropsElsewhere(Plain):
    """The same from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def hidden(self, ids, cache=None):
        hidden = super().hidden(ids, cache)
        return hidden + 0.1 * torch.randn(hidden.shape, generator=self.generator)


class Remembers(Plain):
    """Keeps a state on itself from call to call."""

    last = 0.0

    def hidden(self, ids, cache=None):
        hidden = super().hidden(ids, cache) + self.last
        self.last = float(ids.float().mean())
        return hidden


class Peeks(Plain):
    """Sees the next token."""

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) + 0.05 * self.tok_emb(ids.roll(-1, dims=1))


class Norms(Plain):
    """A norm over time."""

    def hidden(self, ids, cache=None):
        hidden = super().hidden(ids, cache)
        return hidden - 0.1 * hidden.mean(1, keepdim=True)


class BatchNorm(Plain):
    """Usual in evaluation, and in training a look at all tokens of the batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(12)

    def hidden(self, ids, cache=None):
        hidden = super().hidden(ids, cache)
        return self.norm(hidden.flatten(0, 1)).view(hidden.shape)


class MixesRows(Plain):
    def hidden(self, ids, cache=None):
        hidden = super().hidden(ids, cache)
        return hidden + 0.1 * hidden.mean(0, keepdim=True)


class SoftCap(Plain):
    """Logits that are no product with the output matrix."""

    def project(self, hidden):
        return 0.5 * torch.tanh(super().project(hidden) / 0.5)


class Unused(Plain):
    def __init__(self):
        super().__init__()
        self.forgotten = nn.Linear(12, 12)


class Detached(Plain):
    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) * self.final_norm.weight.detach()


class LosesBuffer(Plain):
    """Counts in training, in a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def hidden(self, ids, cache=None):
        if self.training:
            self.steps = self.steps + 1
        return super().hidden(ids, cache) * (1 + self.steps)


class DrawsBuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("offsets", torch.randn(12), persistent=False)

    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) + self.offsets


class LosesAttribute(Plain):
    """The same in a number that no buffer is."""

    steps = 0

    def hidden(self, ids, cache=None):
        self.steps += self.training
        return super().hidden(ids, cache) * (1 + self.steps)


class Float32(Plain):
    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache) @ torch.eye(12)


class FusesWrongly(Plain):
    def fused(self):
        fused = super().fused()
        fused.final_norm.weight.mul_(1.1)
        return fused


class OffByOne(Plain):
    """The first token after a cache has the position of the last one in it."""

    def hidden(self, ids, cache=None):
        if cache is None or cache.length == 0:
            return super().hidden(ids, cache)
        cache.length -= 1
        positions = cache.positions(ids.shape[1], ids.device)
        cache.length += 1
        shift = self.pos_emb(positions) - self.pos_emb(cache.positions(ids.shape[1], ids.device))
        return super().hidden(ids, cache) + shift


class Forgets(Plain):
    """Does not count the tokens in the cache."""

    class Stuck(KVCache):
        def advance(self, n_tokens):
            pass

    def new_cache(self):
        return self.Stuck(n_layers=1, context_length=12)


class IgnoresPadding(Plain):
    class Unpadded(KVCache):
        def positions(self, n_tokens, device):
            return torch.arange(self.length, self.length + n_tokens, device=device)

    def new_cache(self):
        return self.Unpadded(n_layers=1, context_length=12)


class SelectsPadding(Plain):
    """Only the padding is reordered."""

    class Kept(KVCache):
        def select(self, rows):
            if self.keys and len(rows) == len(self.keys[0]):
                Cache.select(self, rows)
            else:
                super().select(rows)

    def new_cache(self):
        return self.Kept(n_layers=1, context_length=12)


class RewindsNothing(Plain):
    """Rewinds to 0, and for other lengths does nothing."""

    class Kept(KVCache):
        def rewind(self, length):
            if length == 0:
                super().rewind(0)

    def new_cache(self):
        return self.Kept(n_layers=1, context_length=12)


class KeepsState(LanguageModel):
    """A running sum of embeddings, whose state `rewind` leaves as it is."""

    vocab_size, context_length = 31, 12

    class Sum(Cache):
        can_rewind = False
        state: Tensor | None = None

        def select(self, rows):
            super().select(rows)
            self.state = self.state[rows]

    def __init__(self):
        super().__init__()
        self.tok_emb = nn.Embedding(31, 12)
        self.out_head = nn.Linear(12, 31, bias=False)

    @property
    def output_weight(self):
        return self.out_head.weight

    def hidden(self, ids, cache=None):
        x = self.tok_emb(ids)
        used = None if cache is None else cache.used(ids.shape[1], ids.device)
        if used is not None:
            x = x * used[:, :, None]
        sums = x.cumsum(1)
        if cache is not None:
            if cache.state is not None:
                sums = sums + cache.state[:, None]
            cache.state = sums[:, -1]
            cache.advance(ids.shape[1])
        return sums

    def new_cache(self):
        return self.Sum(context_length=12)


class ForgetsState(KeepsState):
    """The same put right: nothing is broken."""

    class Emptied(KeepsState.Sum):
        def rewind(self, length):
            super().rewind(length)
            self.state = None

    def new_cache(self):
        return self.Emptied(context_length=12)


class Endless(ForgetsState):
    """Without a limit of its state: nothing is broken."""

    def new_cache(self):
        return self.Emptied(context_length=None)


class Uncached(ForgetsState):
    """Without a cache: nothing is broken."""

    def hidden(self, ids):
        return super().hidden(ids)

    def new_cache(self):
        return None
