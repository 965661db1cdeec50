"""Fast dropout is dropout: the same distribution, exact expectation, from the same generator, with
its gradient.
"""

import pytest
import torch
from torch import nn

from firstlight.model.dropout import FastDropout, apply_mask, draw_mask, make_dropout, scale_of

pytestmark = pytest.mark.cpu

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)


def seeded(call, seed=0):
    torch.manual_seed(seed)
    return call()


@DTYPES
def test_elements_are_zero_or_scaled(dtype):
    x = torch.randn(7, 11, 3, dtype=dtype)
    y = seeded(lambda: FastDropout(0.3)(x))
    kept = y != 0
    assert y.dtype == dtype and 0.5 < kept.float().mean() < 0.9
    assert torch.equal(y[kept], (x * scale_of(0.3))[kept])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.97])
def test_as_many_are_dropped_as_the_rate_says_and_the_mean_stays(rate):
    n = 2**20
    kept = seeded(lambda: draw_mask(torch.Size([n]), rate)) != 0
    spread = 5 * (rate * (1 - rate) / n) ** 0.5
    assert kept.float().mean() == pytest.approx(1 - rate, abs=spread + 2**-16)
    assert scale_of(rate) == pytest.approx(1 / (1 - rate), rel=2**-14 / (1 - rate))


def test_neighbours_are_dropped_independently_though_four_share_a_draw():
    kept = (seeded(lambda: draw_mask(torch.Size([2**20]), 0.5)) != 0).float()
    for distance in range(1, 6):
        both = (kept[:-distance] * kept[distance:]).mean()
        assert both == pytest.approx(0.25, abs=0.003)


def test_a_mask_is_all_bits_or_none():
    mask = draw_mask(torch.Size([1000]), 0.5)
    assert mask.dtype == torch.int16 and set(mask.tolist()) == {-1, 0}
    x = torch.tensor([1.5, -2.0, float("inf"), float("nan")])
    assert torch.equal(
        apply_mask(x, torch.tensor([-1, 0, 0, 0], dtype=torch.int16)), torch.tensor([1.5, 0, 0, 0])
    )


@DTYPES
def test_its_gradient_passes_where_it_passed(dtype):
    x = torch.ones(64, dtype=dtype, requires_grad=True)
    y = seeded(lambda: FastDropout(0.5)(x))
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_it_draws_from_the_default_generator():
    x, layer = torch.ones(100), FastDropout(0.5)
    assert torch.equal(seeded(lambda: layer(x), 1), seeded(lambda: layer(x), 1))
    assert not torch.equal(seeded(lambda: layer(x), 1), seeded(lambda: layer(x), 2))


def test_it_takes_what_is_not_contiguous_and_what_is_empty():
    x = torch.randn(5, 6).T
    y = seeded(lambda: FastDropout(0.5)(x))
    assert torch.equal(y[y != 0], (2 * x)[y != 0])
    assert FastDropout(0.5)(torch.empty(0, 3)).shape == (0, 3)


def test_in_evaluation_and_at_rate_zero_it_does_nothing():
    x = torch.randn(9)
    assert torch.equal(FastDropout(0.5).eval()(x), x)
    assert torch.equal(FastDropout(0.0)(x), x)


def test_a_rate_just_below_one_keeps_a_little():
    y = seeded(lambda: FastDropout(0.999999)(torch.ones(2**18)))
    assert 0 < (y != 0).sum() < 40 and set(y.tolist()) == {0.0, 2.0**15}


def test_torch_keeps_the_draws_of_torch():
    assert type(make_dropout(0.5, "torch")) is nn.Dropout
    assert type(make_dropout(0.5, "fast")) is FastDropout
