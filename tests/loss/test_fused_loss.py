"""The fused loss is torch's cross-entropy of the logits, gradients included, in a part of the
memory.
"""

import shutil

import pytest
import torch
import torch.nn.functional as F

from firstlight.loss import fused
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.loss.fused import linear_cross_entropy

pytestmark = pytest.mark.cpu

N, C, V = 37, 16, 101


@pytest.fixture(params=["small chunks", "one chunk"])
def chunks(request, monkeypatch):
    if request.param == "small chunks":
        monkeypatch.setitem(fused.CHUNK, "cpu", 5 * V)
        monkeypatch.setitem(fused.IDS, "cpu", 7)
        monkeypatch.setattr(fused, "ROWS", 5)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


def plain(hidden, weight, targets):
    logits = F.linear(hidden, weight)
    return F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none"
    )


def outcome(loss, reduce, dtype, *, autocast=False):
    hidden, weight, targets = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = loss(hidden, weight, targets)
    reduce(losses).backward()
    return losses.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize(
    "reduce", [torch.mean, lambda x: (x * torch.arange(N)).sum() / 7], ids=["mean", "weighted"]
)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_losses_and_gradients_are_torchs(chunks, reduce, dtype, rtol):
    for mine, theirs in zip(
        outcome(linear_cross_entropy, reduce, dtype), outcome(plain, reduce, dtype), strict=True
    ):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=rtol)


def test_under_autocast_the_losses_are_those_of_bf16_logits_in_float32(chunks):
    mine = outcome(linear_cross_entropy, torch.mean, torch.float32, autocast=True)
    theirs = outcome(plain, torch.mean, torch.float32, autocast=True)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-6, atol=1e-6)
    for my_grad, their_grad in zip(mine[1:], theirs[1:], strict=True):
        assert my_grad.dtype == torch.float32
        assert (
            my_grad - their_grad
        ).norm() < 2**-7 * their_grad.norm()  # what rounding to 8 bits costs


def test_the_size_of_the_gradient_is_not_rounded_with_the_number_of_tokens():
    """1 / 600 is 0.2 % less in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(600, C, generator=generator)
    targets = torch.randint(0, V, (600,), generator=generator)
    weight, grads = torch.randn(V, C, generator=generator).requires_grad_(), []
    for loss, autocast in ((linear_cross_entropy, True), (plain, False)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = loss(hidden, weight, targets)
        grads.append(torch.autograd.grad(losses.mean(), weight)[0])
    mine, right = grads
    assert (mine * right).sum() / (right * right).sum() == pytest.approx(1, abs=5e-4)


def test_a_token_that_is_nearly_certain_keeps_its_gradient_in_bf16():
    hidden = torch.tensor([[8.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[0.6, 0.0], [0.0, 0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        linear_cross_entropy(hidden, weight, torch.tensor([0])).sum().backward()
    probability = torch.sigmoid(torch.tensor(8 * 0.6))
    assert weight.grad[0, 0] == pytest.approx(
        float(8 * (probability - 1)), rel=0.02
    )  # not the rounding of p - 1


def test_the_loss_of_an_id_that_is_all_but_impossible_is_its_lead():
    """Its probability is 0 in float32, and its logarithm not minus infinity."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    losses = linear_cross_entropy(hidden, torch.tensor([[500.0], [0.0], [0.0]]), torch.tensor([1]))
    assert losses.tolist() == [500.0]


def test_logits_that_are_not_finite_give_torchs_losses():
    """A logit of inf makes the loss nan, unless it is the target's -inf, whose loss is inf."""
    hidden = torch.ones(2, 1, requires_grad=True)
    for logit, target in (
        (torch.inf, 0),
        (torch.inf, 1),
        (-torch.inf, 0),
        (-torch.inf, 1),
        (torch.nan, 1),
    ):
        weight, targets = torch.tensor([[logit], [0.0], [1.0]]), torch.tensor([target, target])
        mine, theirs = linear_cross_entropy(hidden, weight, targets), plain(hidden, weight, targets)
        torch.testing.assert_close(mine, theirs, equal_nan=True)


def test_a_head_alone_can_be_trained(chunks):
    hidden, weight, targets = inputs()
    linear_cross_entropy(hidden.detach(), weight, targets).mean().backward()
    assert hidden.grad is None
    torch.testing.assert_close(weight.grad, outcome(plain, torch.mean, torch.float32)[2])


def test_a_transposed_weight_and_no_token_at_all(chunks):
    hidden, weight, targets = inputs()
    transposed = weight.detach().T.contiguous().T.requires_grad_()
    linear_cross_entropy(hidden, transposed, targets).mean().backward()
    torch.testing.assert_close(transposed.grad, outcome(plain, torch.mean, torch.float32)[2])
    none = linear_cross_entropy(hidden[:0], weight, targets[:0])
    none.sum().backward()
    assert none.shape == (0,) and not weight.grad.any()


def test_without_gradients_the_losses_are_the_same(chunks):
    hidden, weight, targets = inputs()
    with torch.no_grad():
        losses = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(
        losses, plain(hidden, weight, targets).detach(), rtol=1e-6, atol=1e-6
    )


def test_weights_that_are_frozen_get_no_gradient():
    hidden, weight, targets = inputs()
    linear_cross_entropy(hidden, weight.detach(), targets).mean().backward()
    assert weight.grad is None and hidden.grad is not None


def test_training_holds_the_logits_once():
    """Counted by what autograd keeps: hidden, weight, logits."""
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, targets)
    assert [x.numel() for x in loss.grad_fn.saved_tensors] == [N * C, V * C, N * V]


def test_nan_stays_nan():
    hidden, weight, targets = inputs()
    losses = linear_cross_entropy(
        torch.where(torch.arange(N)[:, None] == 3, torch.nan, hidden), weight, targets
    )
    assert losses.isnan().nonzero().tolist() == [[3]]


ADDED = [{"z_loss": 0.01}, {"label_smoothing": 0.1}, {"z_loss": 0.01, "label_smoothing": 0.1}]


def plain_with(z_loss=0.0, label_smoothing=0.0):
    def loss(hidden, weight, targets):
        logits = hidden @ weight.T
        smoothed = F.cross_entropy(
            logits, targets, reduction="none", label_smoothing=label_smoothing
        )
        return smoothed + z_loss * logits.logsumexp(dim=1).square()

    return loss


@pytest.mark.parametrize("added", ADDED, ids=str)
def test_z_loss_and_label_smoothing_are_those_of_their_formulas(chunks, added):
    pairs = zip(
        outcome(CrossEntropy(**added), torch.mean, torch.float64),
        outcome(plain_with(**added), torch.mean, torch.float64),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("added", ADDED, ids=str)
def test_without_gradients_what_is_added_is_the_same(chunks, added):
    hidden, weight, targets = inputs(torch.float64)
    with torch.no_grad():
        losses = CrossEntropy(**added)(hidden, weight, targets)
    torch.testing.assert_close(losses, plain_with(**added)(hidden, weight, targets).detach())


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("weights", [{}, {"z_loss": 0.01, "label_smoothing": 0.1}], ids=str)
def test_the_compiled_loss_is_the_loss(weights, monkeypatch):
    monkeypatch.setitem(fused.CHUNK, "cpu", 15 * V)  # parts of 15, 15 and 7 tokens
    plain_loss, compiled = CrossEntropy(**weights), CrossEntropy(**weights)
    compiled.compile()
    for autocast in (False, True):
        mine = outcome(compiled, torch.mean, torch.float32, autocast=autocast)
        theirs = outcome(plain_loss, torch.mean, torch.float32, autocast=autocast)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
