"""The plain formula is torch's attention, forward and backward; with dropout it is the formula with
a mask.
"""

import pytest
import torch
import torch.nn.functional as F

from firstlight.model.attention import SHORT, _PlainAttention, causal_attention
from firstlight.model.dropout import draw_mask, scale_of

pytestmark = pytest.mark.cpu

SHAPE = (2, 3, 17, 8)  # (B, H, T, D)


def inputs(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(4, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    return [x.requires_grad_() for x in made[:3]], made[3]


def outcome(attend, dtype=torch.float64):
    """The output and the three gradients."""
    tensors, gradient = inputs(dtype)
    output = attend(*tensors)
    output.backward(gradient)
    return [output.detach(), *(x.grad for x in tensors)]


def test_without_dropout_it_is_torchs_attention():
    plain = outcome(lambda q, k, v: _PlainAttention.apply(q, k, v, 0.0))
    torchs = outcome(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    for mine, theirs in zip(plain, torchs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_with_dropout_it_is_the_formula_with_the_mask_that_was_drawn():
    rate = 0.3

    def formula(q, k, v):
        scores = q @ k.mT / SHAPE[-1] ** 0.5
        weights = scores.masked_fill(
            torch.ones(SHAPE[2], SHAPE[2]).triu(1).bool(), -torch.inf
        ).softmax(-1)
        kept = draw_mask(torch.Size([6, 17, 17]), rate).view(weights.shape) != 0
        return (weights * kept * scale_of(rate)) @ v

    def seeded(attend):
        torch.manual_seed(5)
        return outcome(attend)

    plain = seeded(lambda q, k, v: _PlainAttention.apply(q, k, v, rate))
    for mine, theirs in zip(plain, seeded(formula), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_in_bf16_it_is_no_further_from_the_truth_than_torchs():
    truth = outcome(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    plain = outcome(lambda q, k, v: _PlainAttention.apply(q, k, v, 0.0), torch.bfloat16)
    torchs = outcome(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), torch.bfloat16
    )
    for mine, theirs, right in zip(plain, torchs, truth, strict=True):
        assert (mine - right).norm() < 1.5 * (theirs - right).norm() + 1e-3 * right.norm()


def test_later_tokens_do_not_change_earlier_outputs():
    (queries, keys, values), _ = inputs()
    before = _PlainAttention.apply(queries, keys, values, 0.0)
    with torch.no_grad():
        keys[:, :, 9:] += 1
        values[:, :, 9:] -= 1
    after = _PlainAttention.apply(queries, keys, values, 0.0)
    assert torch.equal(before[:, :, :9], after[:, :, :9]) and not torch.equal(
        before[:, :, 9:], after[:, :, 9:]
    )


@pytest.mark.parametrize("masks", ["torch", "fast"])
def test_a_cache_of_earlier_keys_is_looked_at_whole(masks):
    (queries, keys, values), _ = inputs(torch.bfloat16)
    last = causal_attention(queries[:, :, -1:], keys, values, masks=masks)
    every = causal_attention(queries, keys, values, masks=masks)
    torch.testing.assert_close(last[:, :, 0], every[:, :, -1], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_head_of_keys_serves_several_of_queries(rate):
    (queries, keys, values), _ = inputs(torch.bfloat16)

    def attend(keys, values, **changes):
        torch.manual_seed(2)
        return causal_attention(queries, keys, values, drop_rate=rate, masks="fast", **changes)

    shared = attend(keys[:, :1], values[:, :1])
    assert torch.equal(shared, attend(keys[:, :1].expand_as(keys), values[:, :1].expand_as(values)))


@pytest.mark.parametrize(("n_tokens", "is_plain"), [(SHORT, True), (SHORT + 1, False)])
def test_long_sequences_are_not_kept_by_their_square(n_tokens, is_plain):
    queries = torch.randn(1, 1, n_tokens, 8, dtype=torch.bfloat16, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        causal_attention(queries, queries, queries, masks="fast")
    assert (max(kept) >= n_tokens**2) == is_plain


def test_torch_draws_as_torch():
    (queries, keys, values), _ = inputs()
    torch.manual_seed(3)
    mine = causal_attention(queries, keys, values, drop_rate=0.2, masks="torch")
    torch.manual_seed(3)
    assert torch.equal(
        mine, F.scaled_dot_product_attention(queries, keys, values, dropout_p=0.2, is_causal=True)
    )
