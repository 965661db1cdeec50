"""Models made ready for decoding: the same numbers, but for rounding, in faster layers."""

import pytest
import torch
from torch import nn

from firstlight.model.few_rows import MOST, FewRowsLinear, joined

pytestmark = pytest.mark.cpu

ROUNDING = {"rtol": 0, "atol": 1e-5}
"""Sums of numbers of about 1 in another order, in float32."""


@pytest.mark.parametrize(
    "rows", [(1,), (2,), (7,), (MOST,), (MOST + 1,), (3, 5), (1, 1), (2, 40)], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_of_a_few_rows_is_the_usual_one(rows, bias):
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=bias)
    x = torch.randn(*rows, 24)
    few = FewRowsLinear(linear)
    product = few(x)
    torch.testing.assert_close(product, linear(x), **ROUNDING)
    assert product.is_contiguous()
    assert few.weight is linear.weight


def test_other_types_take_the_usual_way():
    linear = nn.Linear(8, 8).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    assert torch.equal(FewRowsLinear(linear)(x), linear(x))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_fused_gpt_is_the_same_model(tiny_gpt, qkv_bias, tie_weights):
    settings = {"qkv_bias": qkv_bias, "tie_weights": tie_weights}
    model, fused = tiny_gpt(**settings), tiny_gpt(**settings).fused()
    ids = torch.randint(31, (3, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(ids), model(ids), **ROUNDING)
    assert not any(type(module) is nn.Linear for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": False}, {"n_kv_heads": 6}, {"tie_weights": True}], ids=str
)
def test_a_fused_modern_gpt_is_the_same_model(tiny_modern, changes):
    model, fused = tiny_modern(**changes), tiny_modern(**changes).fused().fused()
    ids = torch.randint(31, (3, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(ids), model(ids), **ROUNDING)
    layers = {
        name.rpartition(".")[2] for name, m in fused.named_modules() if isinstance(m, nn.Linear)
    }
    assert layers == {"W_qkv", "out_proj", "gate_up", "down", "out_head"}
    assert not any(type(module) is nn.Linear for module in fused.modules())


@pytest.mark.parametrize("bias", [True, False])
def test_joined_layers_give_their_outputs_one_behind_the_other(bias):
    layers, x = [nn.Linear(8, outputs, bias=bias) for outputs in (3, 5, 1)], torch.randn(2, 8)
    torch.testing.assert_close(
        joined(*layers)(x), torch.cat([layer(x) for layer in layers], dim=-1), **ROUNDING
    )


def test_fusing_needs_no_second_copy_of_the_weights(tiny_model):
    model = tiny_model()
    size = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.fused().parameters()) == size
