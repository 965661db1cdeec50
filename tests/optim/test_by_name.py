"""Freezing and learning rates by patterns of names, with any optimizer."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import optim
from torch.optim.lr_scheduler import LambdaLR

from firstlight.errors import ConfigError
from firstlight.optim.adamw import adamw
from firstlight.optim.by_name import check_rates, frozen, optimizer_by_name, rates
from firstlight.optim.muon import muon

IDS = torch.randint(31, (4, 9), generator=torch.Generator().manual_seed(1))


def sgd(model, *, lr):
    return optim.SGD(model.named_parameters(), lr=lr, momentum=0.9)


OPTIMIZERS = pytest.mark.parametrize(
    "kind", [adamw, muon, sgd, lambda model, lr: optim.Adagrad(model.parameters(), lr=lr)]
)


def step(model, optimizer):
    optimizer.zero_grad()
    F.cross_entropy(model(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten()).backward()
    optimizer.step()


def changed(model, before):
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@OPTIMIZERS
def test_what_is_frozen_stays_and_takes_no_state_and_the_rest_trains(tiny_gpt, kind):
    model = frozen(tiny_gpt, ["tok_emb", "trf_blocks.0.*.weight"])
    optimizer = optimizer_by_name(model, make=partial(kind, lr=1e-2), lr_scale=None)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        step(model, optimizer)
    names = {name for name, _ in model.named_parameters()}
    kept = {
        n for n in names if n.startswith("tok_emb") or (n[:13] == "trf_blocks.0." and "weight" in n)
    }
    assert kept and changed(model, before) == names - kept
    assert model.n_trained == sum(p.numel() for n, p in model.named_parameters() if n not in kept)
    assert len(optimizer.state) == len(names - kept)


@OPTIMIZERS
def test_a_factor_of_a_pattern_is_a_factor_of_the_rate_at_every_step(tiny_gpt, kind):
    model = tiny_gpt()
    patterns = ["*_emb:0.5", "pos_emb.weight:0.1", "trf_blocks.?.ff:3"]
    optimizer = optimizer_by_name(model, make=partial(kind, lr=1e-2), lr_scale=patterns)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    name_of = {p: name for name, p in model.named_parameters()}
    for rate in (1e-2, 1e-2 / 2, 1e-2 / 3):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = name_of[p]
                factor = 3 if ".ff." in name else {"pos_emb": 0.1, "tok_emb": 0.5}.get(name[:7], 1)
                assert group["lr"] == pytest.approx(rate * factor)
        step(model, optimizer)
        schedule.step()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(model.parameters()))


@OPTIMIZERS
def test_two_optimizers_with_a_rate_each_are_what_one_with_a_factor_is(tiny_gpt, kind):
    """A scaled parameter moves as if the whole model had that rate; one step is the same."""
    whole, slow, scaled = tiny_gpt(), tiny_gpt(), tiny_gpt()
    before = copy.deepcopy(whole.state_dict())
    step(whole, kind(whole, lr=1e-2))
    step(slow, kind(slow, lr=1e-3))
    step(scaled, optimizer_by_name(scaled, make=partial(kind, lr=1e-2), lr_scale="trf_blocks:0.1"))
    for name, p in scaled.named_parameters():
        expected = (slow if name.startswith("trf_blocks") else whole).get_parameter(name)
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-8)
    assert changed(scaled, before)


@OPTIMIZERS
def test_training_resumes_bit_for_bit_with_groups_of_their_own(tiny_gpt, kind):
    def begin(seed=1):
        model = frozen(partial(tiny_gpt, seed=seed), "trf_blocks.0")
        lr_scale = ["tok_emb:0.1", "*.bias:2"]
        optimizer = optimizer_by_name(model, make=partial(kind, lr=1e-2), lr_scale=lr_scale)
        return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def train(model, optimizer, schedule, steps):
        for _ in range(steps):
            step(model, optimizer)
            schedule.step()

    whole, halved = begin(), begin()
    train(*whole, 4)
    train(*halved, 2)
    resumed = begin(seed=2)
    for new, old in zip(resumed, halved, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    train(*resumed, 2)
    assert not changed(resumed[0], whole[0].state_dict())


def test_a_tied_head_has_two_names_and_trains_as_one(tiny_gpt):
    model = frozen(partial(tiny_gpt, tie_weights=True), "out_head")
    assert not model.tok_emb.weight.requires_grad
    model = tiny_gpt(tie_weights=True)
    assert rates(model, ["tok_emb:0.1", "out_head:0.3"]) == {0.3: model.tok_emb.weight.numel()}
    assert rates(model, ["tok_emb:0.1", "out_head:1"]) == {}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("blocks.[0-3].*", r"freeze \(blocks\.\[0-3\]\.\*\): matches no parameter of GPT; did you mean"
         r" trf_blocks\.0"),
        ("tok_embs", "did you mean tok_emb or"),
        ("transformer.wte", "its modules are tok_emb, pos_emb, trf_blocks, final_norm, out_head"),
        ("*", "nothing is left to train"),
    ],
)  # fmt: skip
def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_names(tiny_gpt, pattern, words):
    with pytest.raises(ConfigError, match=words) as caught:
        frozen(tiny_gpt, [pattern])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["tok_emb", "tok_emb:", ":0.1", "tok_emb:0", "a:-1", "a:nan", "a:inf"]
)
def test_a_rate_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="expected PATTERN:FACTOR with a factor above 0"):
        check_rates([text])


def test_a_rate_of_what_is_frozen_is_refused(tiny_gpt):
    model = frozen(tiny_gpt, "tok_emb")
    with pytest.raises(ConfigError, match=r"lr_scale \(tok_emb:0\.1\): none of these parameters"):
        optimizer_by_name(model, make=partial(adamw, lr=1e-2), lr_scale=["tok_emb:0.1"])


def test_without_patterns_the_optimizer_is_what_it_was(tiny_gpt):
    model = tiny_gpt()
    plain = adamw(model, lr=1e-2).state_dict()["param_groups"]
    made = optimizer_by_name(frozen(lambda: model, None), make=partial(adamw, lr=1e-2), lr_scale=[])
    assert made.state_dict()["param_groups"] == plain
