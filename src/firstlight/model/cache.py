"""Keys and values of the tokens seen so far, so that each new token is computed once."""

import torch
from torch import Tensor


class KVCache:
    """Pre-allocated keys and values of every layer, (L, B, H, T, D) each.

    Allocated at the first `update`, with the device and dtype of its keys (autocast decides those).
    """

    def __init__(self, *, n_layers: int, context_length: int) -> None:
        self.n_layers = n_layers
        self.context_length = context_length
        self.length = 0  # positions filled
        self.keys = self.values = torch.empty(0)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new `keys` and `values` (B, H, T, D) of `layer`; return all up to now (B, H, length + T, D)."""
        batch_size, n_heads, new, head_dim = keys.shape
        end = self.length + new
        assert end <= self.context_length, "a cache holds one context: the caller slides the window"
        if self.keys.numel() == 0:
            shape = (self.n_layers, batch_size, n_heads, self.context_length, head_dim)
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, n_tokens: int) -> None:
        """Count `n_tokens` as seen, once every layer has been updated with them."""
        self.length += n_tokens
