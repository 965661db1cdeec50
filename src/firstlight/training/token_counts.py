"""How often each token was trained on, over all processes of a run."""

from collections.abc import Callable

import torch
from torch import Tensor


class TokenCounts:
    """Counts the targets of training, by id.

    Each process counts its own; `sum_of_all` adds up the numbers of all processes. A checkpoint
    keeps the sum, so that a run may be resumed by another number of processes.
    """

    def __init__(
        self, vocab_size: int, device: torch.device, sum_of_all: Callable[[Tensor], Tensor]
    ) -> None:
        self.sum_of_all = sum_of_all
        self.total = torch.zeros(vocab_size, dtype=torch.int64)
        """Of all processes, up to the last `gather`; on the CPU."""
        self.own = torch.zeros_like(self.total, device=device)
        """Of this process, since then; where training is, which need not wait for it."""

    def add(self, targets: Tensor) -> None:
        """Count the targets (B, T) of a batch."""
        ids = targets.flatten().to(self.own.device)
        self.own.scatter_add_(0, ids, torch.ones_like(ids))

    def gather(self) -> None:
        """Add up what the processes have counted; all of them must call this."""
        self.total += self.sum_of_all(self.own.clone())
        self.own.zero_()

    def of(self, targets: Tensor) -> Tensor:
        """How often each of these ids (N,) was trained on, up to the last `gather`; on the CPU."""
        return self.total[targets.cpu()]
