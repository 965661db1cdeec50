import functools
import itertools

import pytest
import torch

from firstlight.decoding.greedy import Greedy
from firstlight.decoding.prompt_lookup import NGrams, PromptLookup
from firstlight.decoding.sample import Sample
from firstlight.decoding.stepwise import gather

pytestmark = pytest.mark.cpu

REPETITIVE = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
SAMPLE = Sample(temperature=1.0)


@pytest.fixture
def both():
    """The continuation of a prompt by plain decoding, and the one with prompt lookup."""

    def decode(model, decoding, prompt, *, max_guesses=8, text=None, **settings):
        lookup = functools.partial(PromptLookup, max_guesses=max_guesses, text=text)
        tokens = decoding.stream(model, [prompt], make_context=lookup, **settings)
        return decoding.generate(model, [prompt], **settings)[0][0], gather(tokens, 1, 1)[0][0]

    return decode


def assert_same(plain, guessed):
    assert (guessed.ids, guessed.finish_reason) == (plain.ids, plain.finish_reason)
    assert guessed.logprobs == pytest.approx(
        plain.logprobs, rel=1e-5, abs=1e-5
    )  # float32, in another order


# ---- the same text


@pytest.mark.parametrize("max_guesses", [1, 8])
@pytest.mark.one_in(3)
def test_the_tokens_and_draws_are_those_of_plain_decoding(
    tiny_model, both, random_ids, strategy, max_guesses
):
    model = tiny_model(context_length=32)
    for prompt, seed in [(REPETITIVE, 1), (random_ids(9)[0], 2), ([7], 3)]:
        settings = {"max_new_tokens": 26, "seeds": [seed], "max_guesses": max_guesses}
        assert_same(
            *both(model, strategy, prompt, **settings)
        )  # up to the context length and past it


@pytest.mark.parametrize("length", [1, 5, 6, 7, 8, 9, 20])
def test_the_border_of_the_context_is_passed_with_the_same_tokens(tiny_gpt, both, length):
    # Few ids and a long n-gram table: guesses are made, and some are right, at every distance from
    # the border.
    model, text = (
        tiny_gpt(vocab_size=3, context_length=8),
        NGrams([0, 1, 2, 1, 0, 0, 2, 2, 1, 1] * 3),
    )
    for seed in range(5):
        prompt = [n % 3 for n in range(length)]
        assert_same(
            *both(model, SAMPLE, prompt, text=text, max_new_tokens=12, seeds=[seed], max_guesses=4)
        )


@pytest.mark.parametrize("seed", range(4))
def test_a_text_to_guess_from_changes_no_token_whether_it_is_right_or_wrong(
    tiny_gpt, both, random_ids, seed
):
    model, prompt = tiny_gpt(context_length=32), random_ids(3)[0]
    right = SAMPLE.generate(model, [prompt], max_new_tokens=25, seeds=[seed])[0][0].ids
    for ids in ([*prompt, *right], random_ids(200)[0], []):
        assert_same(*both(model, SAMPLE, prompt, text=NGrams(ids), max_new_tokens=25, seeds=[seed]))


@pytest.mark.parametrize("n", range(1, 25))
def test_an_end_or_a_stop_among_accepted_guesses_ends_the_text_there(countdown, both, n):
    prompt = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] * 2
    expected = [(9 - place) % 10 for place in range(n)]
    plain, guessed = both(
        countdown(64), Greedy(), prompt, max_new_tokens=30, stop=lambda ids: len(ids) == n
    )
    assert plain == guessed
    assert (guessed.ids, guessed.finish_reason) == (expected, "stop")
    if n <= 10:
        plain, guessed = both(
            countdown(64), Greedy(), prompt, max_new_tokens=30, eos_id=expected[-1]
        )
        assert plain == guessed
        assert (guessed.ids, guessed.finish_reason) == (expected, "end_of_text")


def test_sampled_texts_have_the_distribution_of_the_model(tiny_gpt):
    """Against the probability that the model gives to each text, with no reference to what plain
    decoding draws.
    """
    model, prompt, n_draws = tiny_gpt(vocab_size=3, n_layers=1), [0, 1, 0, 1, 0], 800
    texts = list(itertools.product(range(3), repeat=3))
    with torch.no_grad():
        steps = model(torch.tensor([[*prompt, *text] for text in texts])).log_softmax(dim=-1)[
            :, len(prompt) - 1 :
        ]
    totals = steps[:, :3].gather(-1, torch.tensor(texts)[..., None]).sum(dim=(1, 2))
    expected = totals.exp().double() * n_draws
    lookup = functools.partial(PromptLookup, max_guesses=4)
    counts = torch.zeros(27, dtype=torch.float64)
    for seed in range(n_draws):
        tokens = SAMPLE.stream(model, [prompt], max_new_tokens=3, seeds=[seed], make_context=lookup)
        counts[texts.index(tuple(token.id for token in tokens))] += 1
    assert expected.min() > 5  # or the statistic does not follow the chi-squared distribution
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert (
        statistic < 54.05
    )  # 26 degrees of freedom exceed it once in a thousand times; the seeds are fixed


# ---- for less work


def test_repetitive_text_takes_few_passes(countdown):
    model, prompt = countdown(128), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] * 2
    lookup = functools.partial(PromptLookup, max_guesses=8)
    ids = [
        token.id
        for token in Greedy().stream(model, [prompt], max_new_tokens=40, make_context=lookup)
    ]
    assert ids == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] * 4
    # The prompt gives the first token; the others come nine at a time: one that was chosen, and
    # eight guesses.
    assert model.passes == [20, 9, 9, 9, 9, 9]


def test_text_without_repetitions_takes_as_many_passes_as_tokens(tiny_gpt):
    model, passes = tiny_gpt(vocab_size=1000, context_length=32), []
    model.drop_emb.register_forward_hook(
        lambda _module, _args, output: passes.append(output.shape[1])
    )
    lookup = functools.partial(PromptLookup, max_guesses=8)
    list(Sample(temperature=3.0).stream(model, [[1, 2, 3]], max_new_tokens=20, make_context=lookup))
    assert passes == [3] + [1] * 19


def test_a_text_to_guess_from_saves_passes_when_it_is_right_and_is_asked_ever_more_rarely_when_it_is_wrong(
    countdown,
):
    down, nothing = NGrams([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]), NGrams()
    wrong = NGrams([id for first in range(9, 0, -1) for id in (first, first - 1, *[first] * 8, 0)])
    for text, sizes in ((down, [1, 9]), (wrong, [1, 9, 1, 1, 9, 1, 1, 1, 1]), (nothing, [1] * 9)):
        model = countdown(64)
        lookup = functools.partial(PromptLookup, max_guesses=8, text=text)
        ids = [
            token.id
            for token in Greedy().stream(model, [[9]], max_new_tokens=9, make_context=lookup)
        ]
        assert ids == [8, 7, 6, 5, 4, 3, 2, 1, 0]
        assert model.passes == sizes


def test_no_more_is_guessed_than_was_allowed_or_there_is_room_for(countdown):
    model, prompt = countdown(32), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] * 2
    lookup = functools.partial(PromptLookup, max_guesses=3)
    list(Greedy().stream(model, [prompt], max_new_tokens=16, make_context=lookup))
    assert model.passes == [
        20,
        4,
        4,
        4,
        32,
        32,
        32,
    ]  # 3 guesses up to the border of the context, none past it


def test_rows_of_a_batch_would_accept_different_numbers_of_guesses(tiny_gpt):
    with pytest.raises(AssertionError):
        PromptLookup(tiny_gpt(), [[1], [2]], max_guesses=2)


# ---- where guesses come from


@pytest.mark.parametrize(
    ("recent", "n", "found"),
    [
        ([1, 2, 3], 2, [4, 1]),  # the longest run
        ([9, 2, 3], 2, [4, 1]),  # a shorter one
        ([9, 9, 2], 3, []),  # a single id is no run
        ([0, 1, 2], 3, [8, 3, 3]),  # where it was seen last
        ([2, 3], 1, [4]),
        ([8, 3], 5, [3, 3]),  # no more than there are
        ([7, 7], 2, []),  # nothing like it
        ([], 2, []),
        ([1, 2, 3], 0, []),
    ],
)
def test_a_guess_is_what_followed_the_longest_run_where_it_was_seen_last(recent, n, found):
    assert NGrams([1, 2, 3, 4, 1, 2, 8, 3, 3, 3]).after(recent, n) == found


def test_a_run_counts_once_something_has_followed_it():
    ngrams = NGrams([1, 2])
    assert ngrams.after([1, 2], 1) == []
    ngrams.extend([3])
    assert ngrams.after([1, 2], 1) == [3]
    assert ngrams.after([2, 3], 1) == []


def test_ids_that_come_one_by_one_are_those_that_come_at_once(random_ids):
    ids = random_ids(60, vocab_size=4)[0]
    grown = NGrams()
    for token in ids:
        grown.extend([token])
    assert (grown.ends, grown.ids) == (NGrams(ids).ends, ids)
