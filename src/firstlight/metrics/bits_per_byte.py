"""Bits per byte: the loss in a unit that all tokenizers share."""

import math

from firstlight.metrics.base import Mean, Scored


class BitsPerByte(Mean):
    """The sum of the losses in bits, divided by the bytes of text that were predicted."""

    name, direction, text = "bits_per_byte", "min", "loss in bits for each byte of text"
    of_tokens = False

    def sums(self, scored: Scored) -> list[float]:
        # Bytes, not characters or tokens: the one unit that is the same for every tokenizer.
        return [float(scored.losses.sum()), float(scored.n_bytes.sum())]

    def value(self, sums: list[float]) -> float | None:
        # Special tokens stand for no bytes, and a batch may consist of them.
        nats, n_bytes = sums
        return nats / math.log(2) / n_bytes if n_bytes else None
