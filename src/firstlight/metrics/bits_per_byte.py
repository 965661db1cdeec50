"""Bits per byte: the loss of a text, the same unit for all tokenizers."""

import math

from firstlight.metrics.base import Mean, Scored


class BitsPerByte(Mean):
    """The whole loss in bits, over the bytes of text that were predicted; there is none where there
    are no bytes.
    """

    name, direction, text = "bits_per_byte", "min", "loss in bits for each byte of text"
    of_tokens = False

    def sums(self, scored: Scored) -> list[float]:
        return [float(scored.losses.sum()), float(scored.n_bytes.sum())]

    def value(self, sums: list[float]) -> float | None:
        nats, n_bytes = sums
        return nats / math.log(2) / n_bytes if n_bytes else None
