import pytest
import torch
import torch.nn.functional as F

from firstlight.optim.adamw import adamw

pytestmark = pytest.mark.cpu


def what_decays(model, decay):
    """Names of the parameters that a step without a gradient shrinks."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, lr=0.1, weight_decay=0.5, decay=decay)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    for name, parameter in after.items():
        assert torch.equal(parameter, before[name]) or torch.allclose(
            parameter, before[name] * 0.95
        ), name
    return {name for name in before if not torch.equal(after[name], before[name])}


def test_matrices_decay_and_biases_and_norms_do_not(tiny_gpt):
    model = tiny_gpt(qkv_bias=True, tie_weights=True)
    matrices = {
        name
        for name, _ in model.named_parameters()
        if name.endswith("weight") and "norm" not in name
    }
    assert what_decays(model, "matrices") == matrices


def test_all_parameters_decay_when_asked_as_in_the_book(tiny_gpt):
    model = tiny_gpt(qkv_bias=True)
    assert what_decays(model, "all") == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_fused_updates_equal_the_plain_ones(tiny_gpt, decay):
    ids = torch.randint(31, (4, 9), generator=torch.Generator().manual_seed(1))
    trained = []
    for fused in (True, False):
        model = tiny_gpt().double()
        optimizer = adamw(
            model, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1, decay=decay, fused=fused
        )
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
        trained.append(model.state_dict())
    start = tiny_gpt().double().state_dict()
    for name, expected in trained[1].items():
        torch.testing.assert_close(trained[0][name], expected, rtol=1e-9, atol=1e-12)
        assert not torch.equal(expected, start[name])
