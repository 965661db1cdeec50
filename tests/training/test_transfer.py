"""How a batch gets to a GPU, as far as it can be told without one."""

import torch

from firstlight.training.evaluation import EvaluationModule


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


def test_a_batch_is_sent_to_a_gpu_through_pinned_memory(tiny_gpt, monkeypatch):
    module = EvaluationModule(tiny_gpt(), torch.ones(31))
    windows = torch.arange(18).view(2, 9)
    batch = (windows[:, :-1], windows[:, 1:])  # as windows are: parts of a larger tensor
    gpu = FakeGpu(monkeypatch)
    sent = module.transfer_batch_to_device(batch, torch.device("cuda", 0), 0)
    assert gpu.calls == [("pin", True), ("cuda:0", True)] * 2
    assert all(map(torch.equal, sent, batch))


def test_on_a_cpu_nothing_is_copied(tiny_gpt):
    module = EvaluationModule(tiny_gpt(), torch.ones(31))
    batch = (torch.arange(8), torch.arange(8))
    sent = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert [part.data_ptr() for part in sent] == [part.data_ptr() for part in batch]
