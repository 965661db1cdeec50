import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from firstlight.model.base import LanguageModel
from firstlight.optim.muon import hidden_matrices, muon

pytestmark = pytest.mark.cpu

IDS = torch.randint(31, (4, 9), generator=torch.Generator().manual_seed(1))
HIDDEN = {"att.W_query", "att.W_key", "att.W_value", "att.out_proj", "ff.layers.0", "ff.layers.2"}


def backward(model):
    loss = F.cross_entropy(model(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    return float(loss.detach())


def train(model, optimizer, schedule, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(backward(model))
        optimizer.step()
        schedule.step()
    return losses


def falling(optimizer):
    return LambdaLR(optimizer, lambda step: 1 / (1 + step))


def same(one, other):
    return all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )


class Bigram(LanguageModel):
    """Without a hidden matrix."""

    def __init__(self):
        super().__init__()
        self.tok_emb, self.out_head = nn.Embedding(31, 4), nn.Linear(4, 31)

    @property
    def output_weight(self):
        return self.out_head.weight

    def hidden(self, ids, cache=None):
        return self.tok_emb(ids)

    def new_cache(self):
        raise NotImplementedError


@pytest.mark.parametrize("tie_weights", [False, True])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_everything_else(tiny_gpt, tie_weights):
    model = tiny_gpt(qkv_bias=True, tie_weights=tie_weights)
    names = {p: name for name, p in model.named_parameters()}
    optimizer = muon(model, lr=1e-3)
    of_muon, *of_adamw = [{names[p] for p in group["params"]} for group in optimizer.param_groups]
    assert of_muon == {f"trf_blocks.{layer}.{name}.weight" for layer in range(2) for name in HIDDEN}
    tables = {"tok_emb.weight", "pos_emb.weight"} | (set() if tie_weights else {"out_head.weight"})
    assert of_adamw == [tables, set(names.values()) - of_muon - tables]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]


def test_matrices_in_a_stack_are_adamws(tiny_gpt):
    model = tiny_gpt()
    model.experts = nn.Parameter(torch.ones(2, 3, 4))
    assert not any(p is model.experts for p in hidden_matrices(model))
    assert any(
        p is model.experts
        for group in muon(model, lr=1e-3).adamw.param_groups
        for p in group["params"]
    )


def test_everything_decays_when_asked(tiny_gpt):
    groups = muon(tiny_gpt(), lr=1e-3, weight_decay=0.3, decay="all").param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3]


def test_a_model_without_a_hidden_matrix_is_refused():
    with pytest.raises(
        ValueError, match=r"Bigram has no hidden matrix for Muon, .*; use optimizer=adamw"
    ):
        muon(Bigram(), lr=1e-3)


def test_weights_in_bfloat16_without_nesterov_are_refused(tiny_gpt):
    model = tiny_gpt().bfloat16()
    muon(model, lr=1e-3)
    with pytest.raises(
        ValueError, match=r"nesterov \(False\) must be true for weights in bfloat16"
    ):
        muon(model, lr=1e-3, nesterov=False)


def test_without_nesterov_torchs_muon_spoils_its_momentum_in_bfloat16_alone():
    """Why that is refused: when this fails, torch has been mended, and the refusal can go."""
    for dtype, is_kept in ((torch.float32, True), (torch.float16, True), (torch.bfloat16, False)):
        matrix = nn.Parameter(torch.ones(2, 2, dtype=dtype))
        optimizer = torch.optim.Muon([matrix], momentum=0.0, nesterov=False)
        matrix.grad = torch.full_like(matrix, 8)
        optimizer.step()
        assert torch.equal(optimizer.state[matrix]["momentum_buffer"], matrix.grad) is is_kept


def test_steps_equal_those_of_torchs_muon_and_adamw_run_apart(tiny_gpt):
    model, twin = tiny_gpt(), tiny_gpt()
    settings = {"lr": 1e-2, "weight_decay": 0.2}
    optimizer = muon(
        model, **settings, momentum=0.8, nesterov=False, ns_steps=3, betas=(0.8, 0.9), eps=1e-6
    )
    hidden = hidden_matrices(twin)
    others = [p for p in twin.parameters() if not any(p is h for h in hidden)]
    groups = [
        {"params": [p for p in others if p.dim() == 2]},
        {"params": [p for p in others if p.dim() == 1], "weight_decay": 0.0},
    ]
    apart = [
        torch.optim.Muon(
            hidden,
            **settings,
            momentum=0.8,
            nesterov=False,
            ns_steps=3,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(groups, **settings, betas=(0.8, 0.9), eps=1e-6, fused=True),
    ]
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        for trained, optimizers in ((model, [optimizer]), (twin, apart)):
            trained.zero_grad()
            backward(trained)
            for each in optimizers:
                each.step()
        assert same(model, twin)
    assert not any(torch.equal(p, start[name]) for name, p in model.named_parameters())


def test_muons_updates_have_the_size_of_adamws(tiny_gpt):
    """Liu et al. 2025: a root mean square of 0.2 lr, about that of AdamW's, whatever the gradients
    and the shape.
    """
    model = tiny_gpt(emb_dim=48)
    before = [p.detach().clone() for p in hidden_matrices(model)]
    optimizer = muon(model, lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for size, p in enumerate(model.parameters()):
        p.grad = 10.0 ** (size % 5 - 2) * torch.randn(p.shape, generator=generator)
    optimizer.step()
    for was, p in zip(before, hidden_matrices(model), strict=True):
        assert float((p.detach() - was).square().mean().sqrt()) == pytest.approx(
            0.2 * 1e-2, rel=0.25
        )


def test_a_schedule_moves_the_rate_of_all_groups_in_proportion(tiny_gpt):
    model = tiny_gpt()
    optimizer = muon(model, lr=1e-2)
    schedule = falling(optimizer)
    for rate in (1e-2, 1e-2 / 2, 1e-2 * (1 / 3)):
        assert [group["lr"] for group in optimizer.param_groups] == [rate] * 3
        train(model, optimizer, schedule, 1)
        of_parts = [*optimizer.muon.param_groups, *optimizer.adamw.param_groups]
        assert all(
            own is group for own, group in zip(of_parts, optimizer.param_groups, strict=True)
        )


def test_training_goes_on_bit_for_bit_from_what_was_saved(tiny_gpt, tmp_path):
    whole, parts = tiny_gpt(), tiny_gpt()
    optimizer = muon(whole, lr=1e-2)
    expected = train(whole, optimizer, falling(optimizer), 6)

    optimizer = muon(parts, lr=1e-2)
    schedule = falling(optimizer)
    train(parts, optimizer, schedule, 3)
    torch.save(
        [parts.state_dict(), optimizer.state_dict(), schedule.state_dict()], tmp_path / "state.pt"
    )

    weights, of_optimizer, of_schedule = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = tiny_gpt(seed=2)
    resumed.load_state_dict(weights)
    optimizer = muon(resumed, lr=1e-2)
    schedule = falling(optimizer)
    optimizer.load_state_dict(of_optimizer)
    schedule.load_state_dict(of_schedule)
    assert train(resumed, optimizer, schedule, 3) == expected[3:]
    assert same(resumed, whole)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
def test_a_tiny_model_learns_in_every_precision(tiny_gpt, dtype):
    model = tiny_gpt().to(dtype)
    optimizer = muon(model, lr=1e-2)
    losses = train(model, optimizer, LambdaLR(optimizer, lambda step: 1.0), 40)
    assert losses[-1] < 0.5 * losses[0]


def test_without_a_gradient_nothing_changes(tiny_gpt):
    model = tiny_gpt()
    optimizer = muon(model, lr=1e-2)
    train(model, optimizer, falling(optimizer), 2)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    for key, kept in optimizer.state_dict()["state"].items():
        assert all(torch.equal(tensor, state["state"][key][name]) for name, tensor in kept.items())


def test_a_step_returns_the_loss_of_its_closure(tiny_gpt):
    model = tiny_gpt()
    optimizer = muon(model, lr=1e-2)
    first = optimizer.step(lambda: backward(model))
    assert first is not None and first > backward(model)
