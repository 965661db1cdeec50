import pytest
import torch

from firstlight.decoding import filters

pytestmark = pytest.mark.cpu

GPT2_VOCABULARY = 50_257


@pytest.fixture
def logits():
    """Random logits (40, 97), without equals."""
    return torch.randn(40, 97, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers.generation.logits_process")


def kept(filtered):
    return filtered.isfinite()


# ---- top-k


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_top_k_keeps_exactly_k_also_among_equals(k):
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    left = filters.top_k(logits, k)
    assert kept(left).sum(dim=-1).tolist() == [min(k, 5)] * 2
    assert torch.equal(left[kept(left)], logits[kept(left)])


def test_of_equal_logits_top_k_keeps_the_lower_ids():
    assert kept(filters.top_k(torch.tensor([[2.0, 7.0, 2.0, 2.0]]), 3)).tolist() == [
        [True, True, True, False]
    ]


def test_top_k_keeps_exactly_k_of_logits_in_bf16_which_are_often_equal():
    logits = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert kept(filters.top_k(logits, 50)).sum(dim=-1).tolist() == [50] * 8


@pytest.mark.parametrize("k", [1, 5, 50, 97, 200])
def test_top_k_is_that_of_transformers_where_no_logits_are_equal(logits, transformers, k):
    assert torch.equal(filters.top_k(logits, k), transformers.TopKLogitsWarper(k)(None, logits))


# ---- top-p


@pytest.mark.parametrize(
    ("p", "left"),
    [
        (0.01, [1]),
        (0.5, [1]),
        (0.51, [1, 3]),
        (0.75, [1, 3]),
        (0.76, [0, 1, 3]),
        (0.875, [0, 1, 3]),
        (0.9, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_fewest_that_sum_to_p_or_more(p, left):
    # Powers of two: their sums are exact, so that the borders 0.5, 0.75 and 0.875 are tested on the
    # spot.
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log2() * torch.tensor(2.0).log()
    assert logits.softmax(dim=-1).tolist() == [[0.125, 0.5, 0.125, 0.25]]
    assert kept(filters.top_p(logits, p))[0].nonzero()[:, 0].tolist() == left


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.99])
def test_top_p_is_that_of_transformers(logits, transformers, p):
    assert torch.equal(filters.top_p(logits, p), transformers.TopPLogitsWarper(p)(None, logits))


def test_top_p_of_one_keeps_everything_although_sums_are_rounded():
    logits = torch.randn(4, GPT2_VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    assert (
        logits.softmax(dim=-1).sort(descending=True).values.cumsum(dim=-1)[:, :-1] >= 1
    ).any()  # they do
    assert torch.equal(filters.top_p(logits, 1.0), logits)


def test_top_p_keeps_at_least_one_however_sure_the_model_is():
    assert kept(
        filters.top_p(torch.tensor([[0.0, 200.0, 0.0], [5.0, 5.0, 5.0]]), 1e-9)
    ).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


# ---- min-p


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 1.0])
def test_min_p_is_that_of_transformers(logits, transformers, p):
    assert torch.equal(filters.min_p(logits, p), transformers.MinPLogitsWarper(p)(None, logits))


def test_min_p_of_one_keeps_the_most_probable_and_its_equals():
    assert kept(filters.min_p(torch.tensor([[1.0, 3.0, 3.0, 2.999]]), 1.0)).tolist() == [
        [False, True, True, False]
    ]


def test_min_p_compares_with_the_most_probable_one_and_not_with_all():
    probabilities = torch.tensor([[0.5, 0.26, 0.24]])
    assert kept(filters.min_p(probabilities.log(), 0.5)).tolist() == [[True, True, False]]


# ---- all that rule out


@pytest.mark.parametrize(
    "apply",
    [
        lambda x: filters.top_k(x, 7),
        lambda x: filters.top_p(x, 0.8),
        lambda x: filters.min_p(x, 0.3),
    ],
    ids=["top_k", "top_p", "min_p"],
)
class TestRulingOut:
    def test_what_is_ruled_out_before_stays_out(self, apply, logits):
        before = logits.masked_fill(logits > 1.0, -torch.inf)
        left = kept(apply(before))
        assert left.any(dim=-1).all()
        assert not (left & (logits > 1.0)).any()

    def test_one_token_that_is_left_is_kept(self, apply):
        only = torch.tensor([[-torch.inf, -torch.inf, -3.0, -torch.inf]])
        assert torch.equal(apply(only), only)

    def test_rows_are_filtered_on_their_own(self, apply, logits):
        assert torch.equal(apply(logits), torch.cat([apply(row) for row in logits.split(1)]))

    def test_what_is_kept_is_not_changed_and_neither_are_the_logits_that_were_given(
        self, apply, logits
    ):
        given = logits.clone()
        left = apply(given)
        assert torch.equal(given, logits)
        assert torch.equal(left[kept(left)], logits[kept(left)])

    def test_the_same_tokens_are_kept_of_the_same_numbers_in_bf16(self, apply, logits):
        assert torch.equal(kept(apply(logits.bfloat16())), kept(apply(logits.bfloat16().float())))


# ---- repetition penalty


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 10.0])
def test_repetition_penalty_is_that_of_transformers(logits, transformers, penalty):
    ids = torch.randint(97, (40, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(filters.repetition_penalty(logits, seen, penalty), theirs)


def test_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign_and_once_each():
    logits, seen = torch.tensor([[2.0, -2.0, 0.0, 2.0]]), torch.tensor([[True, True, True, False]])
    assert filters.repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 0.0, 2.0]]
