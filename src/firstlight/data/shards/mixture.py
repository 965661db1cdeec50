"""Several sources in the shares that the user gives them, as a function of seed and position."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from firstlight.data.permutation import AT_ONCE, Permutation


class Mixture:
    """Which window of which source stands at each place of an epoch.

    An epoch has as many windows as all sources have together, and of each source its share of them.
    All windows of a source come before one of them comes again; the order changes each time.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.counts, self.seed = list(counts), seed
        self.firsts = np.cumsum([0, *counts])[:-1]
        """The number of each source's first window."""
        self.drawn = shares(sum(counts), weights)
        """Windows of each source in an epoch."""
        self.ends = np.cumsum(self.drawn)

    def windows(self, places: np.ndarray, epoch: int) -> np.ndarray:
        """Return the numbers of the windows at `places` (N,) of an epoch: (N,)."""
        sources = np.searchsorted(self.ends, places, side="right")
        found = np.empty(len(places), dtype=np.int64)
        for source in np.unique(sources):
            here = sources == source
            count, drawn = self.counts[source], self.drawn[source]
            # How many of this source were drawn before.
            draws = epoch * drawn + places[here] - (self.ends[source] - drawn)
            rounds, numbers = np.divmod(draws, count)
            chosen = np.empty(len(draws), dtype=np.int64)
            for number in np.unique(rounds):
                permutation = Permutation(count, self.seed, "source", source, number)
                now = rounds == number
                chosen[now] = permutation(numbers[now])
            found[here] = self.firsts[source] + chosen
        return found

    def batches(self, places: Iterator[Tensor], start: int, per_epoch: int) -> Iterator[Tensor]:
        """Replace the places in batches, from batch number `start` on, by windows."""
        number = start
        while True:
            epoch, first = divmod(number, per_epoch)
            head = next(places)
            further = min(AT_ONCE // max(len(head), 1), per_epoch - first - 1)
            batches = [head, *islice(places, further)]
            found = torch.from_numpy(self.windows(torch.cat(batches).numpy(), epoch))
            yield from found.split([len(batch) for batch in batches])
            number += len(batches)


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Cut `total` in proportion to `weights`; the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    cut = [int(share) for share in exact]
    by_remainder = sorted(range(len(cut)), key=lambda i: (cut[i] - exact[i], i))
    for i in by_remainder[: total - sum(cut)]:
        cut[i] += 1
    return cut
