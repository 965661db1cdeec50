import pytest
import torch
import torch.nn.functional as F

from firstlight.decoding import filters
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.model.base import LanguageModel
from firstlight.model.cache import KVCache

BOOK_LOGITS = torch.tensor([[4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]])


class Countdown(LanguageModel):
    """After n comes n - 1, whatever came before."""

    vocab_size, context_length = 10, 4

    def hidden(self, ids, cache=None):
        if cache is not None:
            cache.advance(ids.shape[1])
        return F.one_hot((ids - 1) % 10, 10).float()

    @property
    def output_weight(self):
        return torch.eye(10)

    def new_cache(self):
        return KVCache(n_layers=0, context_length=4)


def uncached(model, decoding, ids, n, generator=None):
    """The book's `generate_text_simple` with any strategy."""
    with torch.no_grad():
        for _ in range(n):
            logits = model(ids[:, -model.context_length :])[:, -1]
            ids = torch.cat([ids, decoding.next_token(logits, generator)[:, None]], dim=1)
    return ids


@pytest.mark.parametrize(
    ("temperature", "counts"),
    [
        (1, [73, 0, 0, 582, 2, 0, 0, 343, 0]),
        (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0]),
        (5, [165, 75, 42, 239, 71, 46, 32, 227, 103]),
    ],
)
def test_a_thousand_draws_are_counted_as_in_the_book(temperature, counts):
    probabilities = Sample(temperature=temperature).probabilities(BOOK_LOGITS)[0]
    with torch.random.fork_rng():
        torch.manual_seed(123)
        draws = [torch.multinomial(probabilities, num_samples=1).item() for _ in range(1000)]
    assert torch.bincount(torch.tensor(draws), minlength=9).tolist() == counts


def test_top_three_probabilities_are_those_of_the_book():
    probabilities = Sample(top_k=3).probabilities(BOOK_LOGITS)[0]
    assert probabilities[[0, 3, 7]].tolist() == pytest.approx([0.0615, 0.5775, 0.3610], abs=5e-5)
    assert probabilities.count_nonzero() == 3


def test_draws_follow_the_probabilities():
    logits = BOOK_LOGITS.expand(20_000, -1)
    decoding = Sample(temperature=2.0, top_k=4)
    drawn = decoding.next_token(logits, torch.Generator().manual_seed(0)).bincount(minlength=9) / len(logits)
    torch.testing.assert_close(drawn, decoding.probabilities(BOOK_LOGITS)[0], atol=0.015, rtol=0)


def test_temperature_zero_and_top_k_of_one_are_greedy():
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    expected = Greedy().next_token(logits)
    assert torch.equal(expected, logits.max(dim=-1).indices)
    assert torch.equal(Sample(temperature=0).next_token(logits), expected)
    assert torch.equal(Sample(temperature=3.0, top_k=1).next_token(logits), expected)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_top_k_keeps_exactly_k_also_among_equals(k):
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    kept = filters.top_k(logits, k).isfinite()
    assert kept.sum(dim=-1).tolist() == [min(k, 5)] * 2
    assert torch.equal(filters.top_k(logits, k)[kept], logits[kept])


def test_of_equal_logits_top_k_keeps_the_lower_ids():
    assert filters.top_k(torch.tensor([[2.0, 7.0, 2.0, 2.0]]), 3).isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("decoding", [Greedy(), Sample(temperature=1.5, top_k=12)], ids=["greedy", "sample"])
@pytest.mark.parametrize("prompt_length", [1, 5, 8, 11], ids="prompt of {}".format)
def test_cached_generation_is_the_uncached_loop_also_past_the_context_length(tiny_gpt, decoding, prompt_length):
    model = tiny_gpt(context_length=8)
    prompts = torch.randint(31, (3, prompt_length), generator=torch.Generator().manual_seed(3))
    cached = decoding.generate(model, prompts, max_new_tokens=13, generator=torch.Generator().manual_seed(4))
    assert torch.equal(cached, uncached(model, decoding, prompts, 13, torch.Generator().manual_seed(4)))


def test_rows_of_a_batch_stop_on_their_own_and_the_loop_ends_with_the_last():
    prompts = torch.tensor([[4], [2], [1]])
    ids = Greedy().generate(Countdown(), prompts, max_new_tokens=9, eos_id=0)
    assert ids.tolist() == [[4, 3, 2, 1, 0], [2, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_without_an_end_token_all_tokens_are_generated():
    assert Greedy().generate(Countdown(), torch.tensor([[2]]), max_new_tokens=4).tolist() == [[2, 1, 0, 9, 8]]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(tiny_gpt):
    def text(seed):
        generator = torch.Generator().manual_seed(seed)
        return Sample(temperature=2.0).generate(tiny_gpt(), torch.tensor([[1]]), max_new_tokens=20, generator=generator)

    assert torch.equal(text(1), text(1))
    assert not torch.equal(text(1), text(2))


def test_generating_leaves_the_global_random_state_alone(tiny_gpt):
    before = torch.get_rng_state()
    Sample().generate(
        tiny_gpt(drop_rate=0.5).train(), torch.tensor([[1]]), max_new_tokens=3, generator=torch.Generator()
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored_even_if_nobody_reads_to_the_end(tiny_gpt, training):
    model = tiny_gpt().train(training)
    Greedy().generate(model, torch.tensor([[1]]), max_new_tokens=3)
    assert model.training is training
    stream = Greedy().stream(model, torch.tensor([[1]]), max_new_tokens=3)
    next(stream)
    assert not model.training
    stream.close()
    assert model.training is training


def test_gradients_are_still_recorded_between_two_streamed_tokens(tiny_gpt):
    for _ in Greedy().stream(tiny_gpt(), torch.tensor([[1]]), max_new_tokens=2):
        assert torch.is_grad_enabled()
