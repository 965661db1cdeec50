"""muP: what it changes of first weights and groups, and that activations stay as the width grows."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import optim

from firstlight.errors import ConfigError
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT
from firstlight.model.width import WidthParts
from firstlight.optim.adamw import adamw
from firstlight.optim.by_name import frozen, optimizer_by_name
from firstlight.optim.muon import muon
from firstlight.optim.mup import MuP
from firstlight.optim.parametrization import adapted, begun

pytestmark = pytest.mark.cpu

IDS = torch.randint(61, (8, 17), generator=torch.Generator().manual_seed(1))
HEAD = 8
MODELS = pytest.mark.parametrize(
    "kind",
    [
        partial(GPT, init="gpt2", drop_rate=0.0, qkv_bias=True, tie_weights=True),
        partial(GPT, init="gpt2", drop_rate=0.0),
        ModernGPT,
    ],
    ids=["GPT", "untied", "ModernGPT"],
)


def model_of(kind, width: int, parametrization: MuP | None = None):
    def make():
        torch.manual_seed(3)
        heads = width // HEAD
        return kind(vocab_size=61, context_length=16, emb_dim=width, n_heads=heads, n_layers=2)

    return begun(make, parametrization)


def moved(kind, width: int, optimizer, parametrization: MuP | None) -> dict[str, float]:
    """How far three steps move the outputs of the last block's parts, and the logits."""
    model = model_of(kind, width, parametrization)
    made = adapted(model, make=partial(optimizer, lr=1e-2), parametrization=parametrization)
    before = outputs_of(model)
    for _ in range(3):
        made.zero_grad()
        F.cross_entropy(model(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten()).backward()
        made.step()
    after = outputs_of(model)
    return {name: float((after[name] - x).abs().mean()) for name, x in before.items()}


@torch.no_grad()
def outputs_of(model) -> dict[str, torch.Tensor]:
    found = {}
    handles = [
        model.get_submodule(f"trf_blocks.1.{name}").register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        )
        for name in ("att", "ff")
    ]
    found["logits"] = model(IDS[:, :-1])
    for handle in handles:
        handle.remove()
    return found


@MODELS
@pytest.mark.parametrize("optimizer", [adamw, pytest.param(muon, marks=pytest.mark.long)])
def test_steps_move_a_wider_model_as_far_with_mup_alone(kind, optimizer):
    ratios = {}
    for name, parametrization in (("standard", None), ("mup", MuP(base_width=16))):
        narrow, wide = (moved(kind, width, optimizer, parametrization) for width in (16, 64))
        ratios[name] = {part: wide[part] / narrow[part] for part in narrow}
    assert all(0.4 < ratio < 1.2 for ratio in ratios["mup"].values()), ratios
    assert all(ratio > 1.4 for ratio in ratios["standard"].values()), ratios


@MODELS
def test_first_weights_are_those_of_the_standard_times_their_factors(kind):
    standard, scaled = model_of(kind, 32), model_of(kind, 32, MuP(base_width=8))
    for name, parameter in standard.named_parameters():
        factor = 1.0
        if name.startswith("trf_blocks") and parameter.dim() == 2:
            factor = 1 / 2
        elif name.startswith("final_norm"):
            factor = 1 / 4
        assert torch.equal(scaled.get_parameter(name), parameter * factor), name


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_groups_have_the_settings_of_their_part_and_the_first_keeps_the_peak(optimizer):
    kind = partial(GPT, init="gpt2")
    model = frozen(lambda: model_of(kind, 32), "trf_blocks.0.att.W_query")
    make = partial(optimizer, lr=0.1, weight_decay=0.2, eps=1e-8, fused=False)
    made = optimizer_by_name(
        model,
        make=partial(adapted, make=make, parametrization=MuP(base_width=8)),
        lr_scale=["trf_blocks.1:0.5", "final_norm:3"],
    )
    settings = {p: group for group in made.param_groups for p in group["params"]}
    assert made.param_groups[0]["lr"] == 0.1
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter not in settings
            continue
        group = settings[parameter]
        is_hidden = name.startswith("trf_blocks") and parameter.dim() == 2
        rate, eps = 1.0, 1 / 4
        if name.startswith("final_norm"):
            rate, eps = 1 / 4, 1.0
        elif is_hidden:
            rate = 1 / 2 if optimizer is muon else 1 / 4
        by_name = {"final_norm": 3, "trf_blocks": 0.5 if "blocks.1" in name else 1}
        factor = by_name.get(name.partition(".")[0], 1)
        assert group["lr"] == pytest.approx(0.1 * rate * factor), name
        decay = 0.2 if parameter.dim() == 2 else 0.0
        assert group["weight_decay"] == pytest.approx(decay / rate), name
        if not (is_hidden and optimizer is muon):
            assert group["eps"] == pytest.approx(1e-8 * eps), name


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_at_the_base_width_nothing_changes(optimizer):
    kind = partial(GPT, init="gpt2")
    standard, scaled = model_of(kind, 16), model_of(kind, 16, MuP(base_width=16))
    assert all(torch.equal(p, scaled.get_parameter(n)) for n, p in standard.named_parameters())
    make = partial(optimizer, lr=0.1)
    plain = make(standard).state_dict()
    assert adapted(scaled, make=make, parametrization=MuP(base_width=16)).state_dict() == plain
    assert adapted(scaled, make=make, parametrization=None).state_dict() == plain


class Unsaid(GPT):
    def width_parts(self) -> WidthParts:
        return super(GPT, self).width_parts()


@pytest.mark.parametrize(
    ("kind", "base", "words"),
    [
        (partial(GPT, init="torch"), 8, r"model\.init \(torch\) must be gpt2"),
        (partial(Unsaid, init="gpt2"), 8, "Unsaid does not say which of its parameters follow"),
        (ModernGPT, 12, r"base_width \(12\) must be a multiple of the width of a head \(8\)"),
    ],
)
def test_a_model_that_it_is_not_defined_for_is_refused(kind, base, words):
    with pytest.raises(ConfigError, match=words) as caught:
        model_of(kind, 16, MuP(base_width=base))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("parametrization")


def test_an_optimizer_that_it_is_not_defined_for_is_refused():
    model = model_of(ModernGPT, 16, MuP(base_width=8))
    before = copy.deepcopy(model.state_dict())
    for kind in (optim.SGD, optim.Adam):  # Adam's weight decay is a part of its gradient
        with pytest.raises(ConfigError, match=f"muP is not defined here for {kind.__name__}"):
            adapted(
                model,
                make=lambda model, kind=kind: kind(model.parameters(), lr=0.1),
                parametrization=MuP(base_width=8),
            )
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
