"""The models keep the contract of firstlight."""

import pytest
import torch
from firstlight_examples.experts import ExpertsGPT
from firstlight_examples.min_gru import MinGRUModel
from firstlight_examples.parallel_alibi import ParallelAlibi, alibi_slopes

from firstlight.testing import check_model

SIZES = {"vocab_size": 31, "context_length": 16, "emb_dim": 24, "n_layers": 2, "drop_rate": 0.1}


@pytest.mark.parametrize("settings", [{"tie_weights": False}, {"tie_weights": True}])
def test_parallel_alibi(settings):
    found = check_model(lambda: ParallelAlibi(**SIZES, n_heads=3, **settings))
    assert set(found.values()) == {"holds"}


def test_slopes_are_those_of_the_paper():
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]


@pytest.mark.parametrize("dropout", ["fast", "torch"])
def test_min_gru(dropout):
    found = check_model(lambda: MinGRUModel(**SIZES, dropout=dropout))
    assert {name for name, state in found.items() if state != "holds"} == {"window"}


@torch.no_grad()
def test_a_scan_has_the_states_of_a_loop():
    torch.manual_seed(0)
    gru = MinGRUModel(**SIZES).blocks[0].gru
    x = torch.randn(2, 16, 24)
    state, states = torch.zeros(2, 24), []
    for place in range(16):
        z, new = gru.gate(x[:, place]).sigmoid(), gru.candidate(x[:, place])
        state = (1 - z) * state + z * torch.where(new >= 0, new + 0.5, new.sigmoid())
        states.append(state)
    torch.testing.assert_close(gru(x, None, None), torch.stack(states, 1))


@pytest.mark.parametrize("n_active", [1, 2])
def test_experts(n_active):
    found = check_model(
        lambda: ExpertsGPT(**SIZES, n_heads=3, n_experts=4, n_active=n_active), tolerance=1e-3
    )
    assert set(found.values()) == {"holds"}


@torch.no_grad()
def test_the_balance_is_one_for_experts_that_get_alike_and_more_for_others():
    torch.manual_seed(0)
    experts = ExpertsGPT(**SIZES, n_heads=3, n_experts=4).trf_blocks[0].experts
    experts.router.weight.zero_()
    x = torch.randn(2, 16, 24)
    assert float(experts(x)[1]) == pytest.approx(1)
    experts.router.weight[0] = 100 * torch.ones(24)
    assert float(experts(x.abs())[1]) > 1.5
