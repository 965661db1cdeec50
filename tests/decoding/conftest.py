"""Models whose text is known beforehand, and the loop that every strategy is compared with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.model.base import LanguageModel
from firstlight.model.cache import KVCache

STRATEGIES = {
    "greedy": Greedy(),
    "temperature": Sample(temperature=1.5),
    "top_k": Sample(top_k=3),
    "top_p": Sample(top_p=0.7),
    "min_p": Sample(min_p=0.2),
    "repetition_penalty": Sample(repetition_penalty=1.5),
    "greedy with repetition_penalty": Sample(temperature=0, repetition_penalty=2.0),
    "all filters": Sample(
        temperature=1.4, top_k=20, top_p=0.95, min_p=0.02, repetition_penalty=1.2
    ),
}


def pytest_generate_tests(metafunc):
    """A test that asks for a `strategy` is run with every one that settles one token after
    another."""
    if "strategy" in metafunc.fixturenames:
        metafunc.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


class Countdown(LanguageModel):
    """After n comes n - 1 and after 0 comes 9, whatever came before."""

    vocab_size = 10

    def __init__(self, context_length):
        super().__init__()
        self.context_length = context_length
        self.passes = []  # tokens that each computes
        self.mode = nn.Dropout()  # a part that has a mode of its own

    def hidden(self, ids, cache=None):
        self.passes.append(ids.shape[1])
        if cache is not None:
            cache.advance(ids.shape[1])
        return F.one_hot((ids - 1) % 10, 10).float()

    @property
    def output_weight(self):
        return torch.eye(10)

    def new_cache(self):
        return KVCache(n_layers=0, context_length=self.context_length)


@pytest.fixture
def countdown():
    """A factory of models that count down, and keep a list of their passes."""
    return lambda context_length=4: Countdown(context_length)


@pytest.fixture
def uncached():
    """The book's `generate_text_simple` for one row, with any strategy: new ids and the
    log-probability of each.
    """

    @torch.no_grad()
    def generate(model, decoding, prompt, n, *, seed=0, eos_id=None):
        ids, logprobs, generator = list(prompt), [], torch.Generator().manual_seed(seed)
        for _ in range(n):
            logits = model(torch.tensor([ids[-model.context_length :]]))[:, -1]
            token = int(decoding.next_token(logits, [ids], [generator]))
            ids.append(token)
            logprobs.append(float(logits.log_softmax(dim=-1)[0, token]))
            if token == eos_id:
                break
        return ids[len(prompt) :], logprobs

    return generate


@pytest.fixture
def random_ids():
    """A factory of lists of ids of the given lengths, the same every time."""

    def make(*lengths, vocab_size=31, seed=3):
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.randint(vocab_size, (length,), generator=generator).tolist() for length in lengths
        ]

    return make
