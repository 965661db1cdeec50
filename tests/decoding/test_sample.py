import pytest
import torch

from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample, seen
from firstlight.decoding.stepwise import draw

pytestmark = pytest.mark.cpu

BOOK_LOGITS = torch.tensor([[4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]])


@pytest.fixture
def choose():
    """Ids that a strategy chooses from logits (B, V), after rows of nothing."""

    def next_ids(decoding, logits, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return decoding.next_token(logits, [[]] * len(logits), [generator] * len(logits))

    return next_ids


# ---- the book


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


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_draws_with_a_generator_of_ones_own_are_those_of_the_book(choose, temperature):
    decoding = Sample(temperature=temperature)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        book = [
            torch.multinomial(decoding.probabilities(BOOK_LOGITS)[0], num_samples=1).item()
            for _ in range(100)
        ]
    assert choose(decoding, BOOK_LOGITS.expand(100, -1), seed=123).tolist() == book


def test_top_three_probabilities_are_those_of_the_book():
    probabilities = Sample(top_k=3).probabilities(BOOK_LOGITS)[0]
    assert probabilities[[0, 3, 7]].tolist() == pytest.approx(
        [0.0615, 0.5775, 0.3610], abs=5e-5
    )  # 4 digits printed
    assert probabilities.count_nonzero() == 3


def test_the_order_is_that_of_the_book_first_what_may_be_drawn_then_temperature():
    # At temperature 5 the best two have 47 % of the probability, at 1 they have 92 %: a nucleus of
    # 0.9 is two tokens where it comes first, and seven where temperature does.
    hot = Sample(temperature=5.0).probabilities(BOOK_LOGITS)[0].sort(descending=True).values
    assert hot[:2].sum() < 0.9
    expected = torch.zeros(9).scatter(
        0, torch.tensor([3, 7]), (BOOK_LOGITS[0, [3, 7]] / 5).softmax(dim=-1)
    )
    for first in ({"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.5}):
        torch.testing.assert_close(
            Sample(temperature=5.0, **first).probabilities(BOOK_LOGITS)[0], expected
        )


# ---- what equals what


def test_temperature_zero_and_top_k_of_one_are_greedy(choose):
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    expected = choose(Greedy(), logits)
    assert torch.equal(expected, logits.max(dim=-1).indices)
    for same in (
        {"temperature": 0},
        {"top_k": 1, "temperature": 3.0},
        {"top_p": 1e-9},
        {"temperature": 1e-6},
    ):
        assert torch.equal(choose(Sample(**same), logits), expected)


def test_temperature_zero_and_top_k_of_one_are_greedy_among_equals(choose):
    logits = torch.randn(50, 400, generator=torch.Generator().manual_seed(0)).round()
    assert (logits == logits.amax(dim=-1, keepdim=True)).sum(
        dim=-1
    ).max() > 1  # best ones that are equal
    expected = choose(Greedy(), logits)
    for same in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}):
        assert torch.equal(choose(Sample(**same), logits), expected)


def test_filters_that_keep_everything_change_nothing():
    decoding = Sample(top_k=9, top_p=1.0, min_p=1e-9, repetition_penalty=1.0)
    assert torch.equal(
        decoding.probabilities(BOOK_LOGITS, [[0, 3]]), Sample().probabilities(BOOK_LOGITS)
    )


def test_probabilities_at_temperature_zero_are_one_and_nothing():
    assert Sample(temperature=0).probabilities(BOOK_LOGITS)[0].tolist() == [
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-39, 1e-30, 1e38])
def test_no_temperature_however_extreme_gives_nan(temperature):
    probabilities = Sample(temperature=temperature).probabilities(BOOK_LOGITS)[0]
    expected = (
        torch.zeros(9).index_fill(0, torch.tensor([3]), 1.0)
        if temperature < 1
        else torch.full((9,), 1 / 9)
    )
    torch.testing.assert_close(probabilities, expected)


def test_logits_in_bf16_are_drawn_from_in_float32():
    logits = BOOK_LOGITS.bfloat16()
    decoding = Sample(temperature=0.7, top_p=0.99)
    assert decoding.probabilities(logits).dtype == torch.float32
    assert torch.equal(decoding.probabilities(logits), decoding.probabilities(logits.float()))


def test_the_penalty_is_for_each_row_on_its_own_tokens():
    logits, decoding = BOOK_LOGITS.expand(3, -1), Sample(repetition_penalty=1e6)
    probabilities = decoding.probabilities(logits, [[3, 3, 7], [7], [2]])
    assert probabilities.argmax(dim=-1).tolist() == [0, 3, 3]
    assert seen([[3, 3, 7], [7], [2]], logits).nonzero().tolist() == [
        [0, 3],
        [0, 7],
        [1, 7],
        [2, 2],
    ]


# ---- draws


def test_draws_follow_the_probabilities(choose):
    logits, decoding = BOOK_LOGITS.expand(20_000, -1), Sample(temperature=2.0, top_k=4)
    drawn = choose(decoding, logits).bincount(minlength=9) / len(logits)
    # Four standard deviations of a share of 20,000 draws, at its largest: 4 * 0.5 / 141.
    torch.testing.assert_close(drawn, decoding.probabilities(BOOK_LOGITS)[0], atol=0.0142, rtol=0)


def test_a_row_draws_from_its_own_generator_alone():
    probabilities = torch.full((3, 1000), 1e-3)
    together = draw(probabilities, [torch.Generator().manual_seed(seed) for seed in (5, 6, 5)])
    alone = [
        draw(probabilities[:1], [torch.Generator().manual_seed(seed)]).item() for seed in (5, 6, 5)
    ]
    assert together.tolist() == alone
    assert alone[0] == alone[2] != alone[1]


def test_more_than_the_vocabulary_is_refused(tiny_gpt):
    Sample(top_k=31).check(tiny_gpt(vocab_size=31), num_samples=5)
    with pytest.raises(ValueError, match=r"top_k \(32\) must be at most the vocabulary, 31"):
        Sample(top_k=32).check(tiny_gpt(vocab_size=31))
