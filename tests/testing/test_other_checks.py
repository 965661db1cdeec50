"""The checks of other parts pass ours, and name the property that a broken one lacks."""

from functools import partial

import pytest
import tiktoken
import torch
from torch import nn, optim
from torch.nn.functional import cross_entropy

from firstlight.data.tokenizers.base import END_OF_TEXT, Tokenizer
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.decoding.beam import BeamSearch
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.decoding.stepwise import Stepwise
from firstlight.loss.base import Loss
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.metrics.base import Mean
from firstlight.metrics.measured import default
from firstlight.metrics.top1_accuracy import Top1Accuracy
from firstlight.model.gpt import GPT
from firstlight.optim.adamw import adamw
from firstlight.optim.base import Schedule
from firstlight.optim.constant import Constant
from firstlight.optim.muon import muon
from firstlight.optim.warmup_cosine import WarmupCosine
from firstlight.testing import (
    check_decoding,
    check_loss,
    check_metric,
    check_model,
    check_optimizer,
    check_schedule,
    check_tokenizer,
)

OURS = [
    (check_decoding, Greedy()),
    (check_decoding, Sample(temperature=1.2, top_k=20, top_p=0.9)),
    (check_decoding, Sample(temperature=0, repetition_penalty=1.3)),
    (check_decoding, BeamSearch(n_beams=3)),
    (check_loss, CrossEntropy()),
    (check_loss, CrossEntropy(z_loss=0.01, label_smoothing=0.1)),
    *((check_metric, metric) for metric in (*default().values(), Top1Accuracy())),
    (check_optimizer, partial(adamw, lr=1e-3)),
    (check_optimizer, partial(muon, lr=1e-3)),
    (check_schedule, Constant()),
    (check_schedule, WarmupCosine(warmup_steps=10)),
    (check_tokenizer, BytesTokenizer),
    (check_tokenizer, partial(BPETokenizer, vocab_size=400)),
]


@pytest.mark.parametrize(("check", "part"), OURS)
def test_parts_of_ours_pass(check, part):
    states = set(check(part).values())
    assert all(state == "holds" or state.startswith("not applicable: ") for state in states)


class Draws(Stepwise):
    """Draws from torch's global generator."""

    draws = True

    def next_token(self, logits, rows, generators):
        return torch.multinomial(logits.softmax(-1), 1)[:, 0]


class Shares(Stepwise):
    """All rows draw from the first one's generator."""

    draws = True

    def next_token(self, logits, rows, generators):
        return torch.multinomial(logits.softmax(-1), 1, generator=generators[0])[:, 0]


class Denies(Sample):
    def __init__(self):
        super().__init__()
        self.draws = False


class ChoosesAny(Stepwise):
    """Looks at no logits."""

    def next_token(self, logits, rows, generators):
        return torch.tensor([(row[-1] + 1) % logits.shape[-1] for row in rows])


class Hot(Greedy):
    """Its log-probabilities are those of another temperature."""

    def generate(self, model, prompts, **settings):
        found = super().generate(model, prompts, **settings)
        for [row] in found:
            row.logprobs = [logprob / 2 for logprob in row.logprobs]
        return found


class OneMore(Greedy):
    def generate(self, model, prompts, *, max_new_tokens, **settings):
        return super().generate(model, prompts, max_new_tokens=max_new_tokens + 1, **settings)


class SumLoss(Loss):
    def __call__(self, hidden, output_weight, targets):
        return cross_entropy(hidden @ output_weight.T, targets)


class BatchLoss(Loss):
    """Relative to the mean of the batch."""

    def __call__(self, hidden, output_weight, targets):
        losses = cross_entropy(hidden @ output_weight.T, targets, reduction="none").float()
        return losses / losses.mean()


class NarrowLoss(Loss):
    def __call__(self, hidden, output_weight, targets):
        return cross_entropy(hidden @ output_weight.T, targets, reduction="none")


class DetachedLoss(Loss):
    """Half of its gradient is missing."""

    def __call__(self, hidden, output_weight, targets):
        logits = hidden @ output_weight.T
        losses = cross_entropy(logits, targets, reduction="none").float()
        return losses * (1 + losses.detach())


class MeanOfMeans(Mean):
    name, direction, text = "mean_of_means", "min", "a mean of each batch"

    def sums(self, scored):
        return [float(scored.losses.mean()), 1.0]


class ThreeSums(Mean):
    name, direction, text = "three", "min", "three numbers"

    def sums(self, scored):
        return [1.0, 2.0, 3.0]


class Upwards(MeanOfMeans):
    direction = "up"


def half(model, lr=1e-2):
    return optim.SGD(list(model.parameters())[1:], lr=lr)


class OwnRate(optim.SGD):
    """Keeps the rate that it began with."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 1e-2
        return super().step(closure)


class OwnMomentum(optim.SGD):
    """Keeps a momentum where state_dict does not see it."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = getattr(parameter, "kept", torch.zeros_like(parameter))
                parameter.kept = parameter.grad = 0.9 * kept + parameter.grad
        return super().step(closure)


class Noisy(optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad += 1e-6 * torch.randn_like(parameter)
        return super().step(closure)


class Ascent(optim.SGD):
    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr, maximize=True)


def of(kind):
    """A factory of an optimizer of all parameters."""
    return lambda model: kind(model.parameters(), lr=1e-2)


def looks(model):
    return optim.SGD(
        model.parameters(), lr=0.1 if float(next(model.parameters()).detach().max()) > 0 else 1
    )


class Above(Schedule):
    def lr(self, step, *, max_steps, peak):
        return 2 * peak


class Counts(Schedule):
    calls = 0

    def lr(self, step, *, max_steps, peak):
        self.calls += 1
        return peak / self.calls


class FromOne(Schedule):
    """Takes max_steps for a part of the run."""

    def lr(self, step, *, max_steps, peak):
        return max(0.0, peak * (1 - step / (max_steps / 10)))


class Letters(Tokenizer):
    """Loses what is not ASCII."""

    vocab_size = 300
    pattern = r"[\x00-\x7f]"

    def build(self, documents):
        ranks = {bytes([n]): n for n in range(256)}
        return tiktoken.Encoding(
            "letters",
            pat_str=self.pattern,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: 256},
        )


class Random(Letters):
    pattern = r"[\s\S]"

    def build(self, documents):
        order = torch.randperm(256).tolist()
        ranks = {bytes([byte]): n for n, byte in enumerate(order)}
        return tiktoken.Encoding(
            "random", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 256}
        )


class Tall(Letters):
    pattern = r"[\s\S]"

    def encode(self, text, *, special_tokens=False):
        ids = super().encode(text, special_tokens=special_tokens)
        return [300 if i == ord("e") else i for i in ids]

    def decode(self, ids):
        return super().decode([ord("e") if i == 300 else i for i in ids])


BROKEN = [
    (check_decoding, Draws(), "batch"),
    (check_decoding, Shares(), "batch"),
    (check_decoding, Denies(), "samples"),
    (check_decoding, ChoosesAny(), "unused ids"),
    (check_decoding, Hot(), "log-probabilities"),
    (check_decoding, OneMore(), "length"),
    (check_loss, SumLoss(), "shape"),
    (check_loss, BatchLoss(), "tokens apart"),
    (check_loss, NarrowLoss(), "bfloat16"),
    (check_loss, DetachedLoss(), "gradient"),
    (check_metric, MeanOfMeans(), "additive"),
    (check_metric, ThreeSums(), "number of sums"),
    (check_metric, Upwards(), "description"),
    (check_optimizer, lambda model: nn.Linear(1, 1), "contract"),
    (check_optimizer, half, "every parameter"),
    (check_optimizer, looks, "without memory"),
    (check_optimizer, of(Ascent), "descent"),
    (check_optimizer, of(OwnRate), "learning rate"),
    (check_optimizer, of(OwnMomentum), "save and load"),
    (check_optimizer, of(Noisy), "save and load"),
    (check_schedule, Above(), "range"),
    (check_schedule, Counts(), "determinism"),
    (check_schedule, FromOne(), "training"),
    (check_schedule, WarmupCosine(warmup_steps=1000), "check"),
    (check_tokenizer, Letters, "round trip"),
    (check_tokenizer, Random, "determinism"),
    (check_tokenizer, Tall, "ids"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "part", "property"), BROKEN)
def test_a_broken_part_is_told_which_property_it_lacks(check, part, property):
    with pytest.raises(AssertionError) as failed:
        check(part)
    message = str(failed.value)
    assert f": {property}: " in message and message.endswith("."), message


def test_what_makes_a_part_makes_a_new_one_each_time():
    sizes = {"vocab_size": 31, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 1}
    model, tokenizer = GPT(**sizes), BytesTokenizer()
    for check, part in ((check_model, model), (check_tokenizer, tokenizer)):
        with pytest.raises(AssertionError, match=f"a {type(part).__name__} was given: give what"):
            check(part)
        with pytest.raises(AssertionError, match=r"the same .* again, not a new one each time"):
            check(lambda part=part: part)
        with pytest.raises(AssertionError, match="make returns a NoneType, which is not a"):
            check(lambda: None)


def test_properties_to_skip_are_a_list():
    with pytest.raises(ValueError, match=r"give a list, skip=\['bytes'\]"):
        check_tokenizer(BytesTokenizer, skip="bytes")
