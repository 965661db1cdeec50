"""How a batch gets to a GPU, as far as it can be told without one."""

import torch

from firstlight.training.module import sent


class FakeGpu:
    """Records what is asked of tensors instead of doing it."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(torch.Tensor, "pin_memory", self.pinned)
        monkeypatch.setattr(torch.Tensor, "to", self.sent)

    @property
    def pinned(self):
        def pin(tensor):
            self.calls.append(("pin", tensor.is_contiguous()))
            return tensor

        return pin

    @property
    def sent(self):
        def send(tensor, device, *, non_blocking=False):
            self.calls.append((str(device), non_blocking))
            return tensor

        return send


def test_a_batch_is_sent_to_a_gpu_through_pinned_memory(monkeypatch):
    windows = torch.arange(18).view(2, 9)
    batch = (windows[:, :-1], windows[:, 1:])  # as windows are: parts of a larger tensor
    gpu = FakeGpu(monkeypatch)
    arrived = sent(batch, torch.device("cuda", 0))
    assert gpu.calls == [("pin", True), ("cuda:0", True)] * 2
    assert all(map(torch.equal, arrived, batch))
