"""What a model keeps of past tokens, so that each new token is computed once."""

import sys

import torch
from torch import Tensor

ENDLESS = sys.maxsize
"""The number of places left in a cache without a limit."""


def positions_and_mask(
    n_tokens: int, device: torch.device, cache: "Cache | None"
) -> tuple[Tensor, Tensor | None]:
    """Return the positions and mask of the next `n_tokens`; no cache is like an empty one."""
    if cache is None:
        return torch.arange(n_tokens, device=device), None
    return cache.positions(n_tokens, device), cache.mask(n_tokens, device)


class Cache:
    """The number of past tokens; subclasses keep what a model needs of the tokens themselves.

    Rows of unequal length are aligned at the right: `padding` (B,) counts the unused places at the
    left of each row, which have no position and which no token sees. With `context_length=None`
    there is always room: the model keeps a state of constant size, as a recurrence does.
    """

    can_rewind = True
    """Whether `rewind` works for any length, or only for 0: a recurrent state cannot go back."""

    def __init__(self, *, context_length: int | None) -> None:
        self.context_length = context_length
        # Filled places, padding included.
        self.length = 0
        self.padding: Tensor | None = None

    @property
    def room(self) -> int:
        """Number of places left."""
        if self.context_length is None:
            return ENDLESS
        return self.context_length - self.length

    def positions(self, n_tokens: int, device: torch.device) -> Tensor:
        """Return the positions of the next `n_tokens`: (T,), or (B, T) if rows are padded."""
        places = torch.arange(self.length, self.length + n_tokens, device=device)
        if self.padding is None:
            return places
        # Padded places get position 0, because an embedding needs some position.
        return (places - self.padding[:, None]).clamp(min=0)  # (B, T)

    def mask(self, n_tokens: int, device: torch.device) -> Tensor | None:
        """Return the places that the next `n_tokens` see, or None if no mask is needed.

        The mask is (T, length + T), or (B, 1, T, length + T) if rows are padded. None means that a
        single token sees all places, or that the cache is empty and the usual causal mask will do.
        """
        if self.padding is None and (self.length == 0 or n_tokens == 1):
            return None
        end = self.length + n_tokens
        causal = torch.ones(n_tokens, end, dtype=torch.bool, device=device).tril(self.length)
        if self.padding is None:
            return causal
        used = torch.arange(end, device=device) >= self.padding[:, None]  # (B, length + T)
        # A padded place sees itself, because a softmax over nothing is NaN.
        itself = torch.eye(n_tokens, end, dtype=torch.bool, device=device).roll(self.length, 1)
        return ((causal & used[:, None]) | itself)[:, None]

    def used(self, n_tokens: int, device: torch.device) -> Tensor | None:
        """Return which of the next `n_tokens` are not padding (B, T); None if all are not.

        For a model with a state, which padding must not change.
        """
        if self.padding is None:
            return None
        places = torch.arange(self.length, self.length + n_tokens, device=device)
        return places >= self.padding[:, None]  # (B, T)

    def advance(self, n_tokens: int) -> None:
        """Count `n_tokens` as seen, after every layer has been updated with them."""
        self.length += n_tokens

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` places."""
        assert 0 <= length <= self.length
        # What is beyond stays in memory, and is overwritten by the next tokens.
        self.length = length

    def select(self, rows: Tensor) -> None:
        """Keep the rows with the numbers `rows` (B',), in this order; rows may repeat."""
        if self.padding is not None:
            self.padding = self.padding[rows]


class KVCache(Cache):
    """Pre-allocated keys and values of every layer, (B, H, T, D) each.

    The first `update` allocates the cache with the device and dtype of its keys, which autocast
    decides. Without autocast it is float32 on a CPU, even for a bfloat16 model: attention in
    float32 is faster there (docs/decoding.md), and more exact.
    """

    context_length: int

    def __init__(self, *, n_layers: int, context_length: int) -> None:
        super().__init__(context_length=context_length)
        self.n_layers = n_layers
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append `keys` and `values` (B, H, T, D) of `layer`; return all so far.

        Those are (B, H, length + T, D), views of the cache.
        """
        end = self.length + keys.shape[2]
        assert end <= self.context_length, "a cache holds one context: the caller slides the window"
        if not self.keys:
            batch_size, n_heads, _, head_dim = keys.shape
            shape = (batch_size, n_heads, self.context_length, head_dim)
            dtype = keys.dtype
            if keys.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
                dtype = torch.float32
            # The whole context at once: growing would copy the cache again and again.
            self.keys = [keys.new_empty(shape, dtype=dtype) for _ in range(self.n_layers)]
            self.values = [values.new_empty(shape, dtype=dtype) for _ in range(self.n_layers)]
        all_keys = self.keys[layer][:, :, :end]  # (B, H, end, D)
        all_values = self.values[layer][:, :, :end]
        # In place: concatenating would copy the whole cache for each token.
        all_keys[:, :, self.length :] = keys
        all_values[:, :, self.length :] = values
        return all_keys, all_values

    def select(self, rows: Tensor) -> None:
        """Keep the rows with the numbers `rows` (B',), in this order; rows may repeat."""
        super().select(rows)
        # The same rows in the same order need no copy.
        if not self.keys or torch.equal(rows, torch.arange(len(self.keys[0]), device=rows.device)):
            return
        self.keys = [self._selected(keys, rows) for keys in self.keys]
        self.values = [self._selected(values, rows) for values in self.values]

    def _selected(self, old: Tensor, rows: Tensor) -> Tensor:
        new = old.new_empty(len(rows), *old.shape[1:])
        # Only the filled places are copied; the rest is room for tokens to come.
        torch.index_select(old[:, :, : self.length], 0, rows, out=new[:, :, : self.length])
        return new
