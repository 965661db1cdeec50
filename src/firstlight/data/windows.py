"""Windows of a token sequence, cut as views and gathered a batch at a time."""

from torch import Tensor
from torch.utils.data import Dataset


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of inputs and targets from ids (N,): windows of `context_length`, one every `stride` tokens.

    Targets are the inputs one token later. Indexed by a batch of indices (B,), not one by one.
    """

    def __init__(self, ids: Tensor, *, context_length: int, stride: int) -> None:
        self.context_length = context_length
        if len(ids) > context_length:
            self.windows = ids.unfold(0, context_length + 1, stride)  # (N,) -> (n, T + 1), a view
        else:
            self.windows = ids.new_empty(0, context_length + 1)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        chunk = self.windows[index].long()  # (B, T + 1)
        return chunk[:, :-1], chunk[:, 1:]
