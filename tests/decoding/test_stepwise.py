"""The loop that all strategies share but beam search."""

import math

import pytest
import torch

from firstlight.decoding.base import derived_seed
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.decoding.stepwise import gather

pytestmark = pytest.mark.cpu

ROUNDING = {"rel": 1e-5, "abs": 1e-5}
"""float32 sums of a dozen terms, in another order."""


def ids_of(found):
    return [[continuation.ids for continuation in samples] for samples in found]


# ---- the same tokens as without a cache


@pytest.mark.parametrize("num_samples", [pytest.param(1, marks=pytest.mark.long), 3])
@pytest.mark.parametrize(
    "lengths", [(1,), (3, 1, 5), (8, 2), (11, 4, 9)], ids=lambda lengths: f"prompts of {lengths}"
)
@pytest.mark.one_in(2)
def test_batches_are_the_uncached_loop_over_each_row_alone(
    tiny_model, uncached, random_ids, strategy, lengths, num_samples
):
    model, prompts = tiny_model(context_length=8), random_ids(*lengths)
    seeds = [101 + number for number in range(len(prompts))]
    found = strategy.generate(
        model, prompts, max_new_tokens=10, num_samples=num_samples, seeds=seeds
    )
    for prompt, seed, samples in zip(prompts, seeds, found, strict=True):
        assert len(samples) == num_samples
        for number, sample in enumerate(samples):
            ids, logprobs = uncached(
                model, strategy, prompt, 10, seed=derived_seed(seed, sample=number)
            )
            assert sample.ids == ids
            assert sample.logprobs == pytest.approx(logprobs, **ROUNDING)
            assert sample.finish_reason == "length"


@pytest.mark.one_in(2)
def test_rows_that_end_leave_the_others_as_they_were(tiny_model, uncached, random_ids, strategy):
    model, prompts = tiny_model(context_length=8), random_ids(*[4] * 12)
    everything = [
        uncached(model, strategy, prompt, 10, seed=n)[0] for n, prompt in enumerate(prompts)
    ]
    eos_id = everything[0][2]  # so that it comes somewhere
    found = strategy.generate(model, prompts, max_new_tokens=10, seeds=range(12), eos_id=eos_id)
    for ids, [row] in zip(everything, found, strict=True):
        ends = eos_id in ids
        assert row.ids == (ids[: ids.index(eos_id) + 1] if ends else ids)
        assert row.finish_reason == ("end_of_text" if ends else "length")
        assert len(row.logprobs) == len(row.ids)


# ---- what a row draws


def test_draws_of_a_row_depend_on_its_seed_and_number_alone(tiny_gpt, random_ids):
    model, (first, second) = tiny_gpt(), random_ids(3, 5)
    decoding = Sample(temperature=2.0)

    def texts(prompts, num_samples, seeds):
        return ids_of(
            decoding.generate(
                model, prompts, max_new_tokens=9, num_samples=num_samples, seeds=seeds
            )
        )

    [three] = texts([first], 3, [7])
    assert texts([first], 1, [7]) == [three[:1]]
    assert texts([second, first], 3, [1, 7])[1] == three
    assert texts([first, second], 2, [7, 1])[0] == three[:2]
    assert [texts([first], 1, [derived_seed(7, sample=n)])[0][0] for n in range(3)] == three
    assert len({tuple(ids) for ids in three}) == 3


def test_without_seeds_every_prompt_and_sample_has_one_of_its_own(tiny_gpt):
    decoding = Sample(temperature=3.0)
    found = ids_of(decoding.generate(tiny_gpt(), [[1], [1], [1]], max_new_tokens=12, num_samples=3))
    assert len({tuple(ids) for samples in found for ids in samples}) == 9
    assert found == ids_of(
        decoding.generate(
            tiny_gpt(),
            [[1], [1], [1]],
            max_new_tokens=12,
            num_samples=3,
            seeds=[derived_seed(0, prompt=number) for number in range(3)],
        )
    )


def test_seeds_of_prompts_and_of_samples_never_meet():
    seeds = {
        derived_seed(derived_seed(123, prompt=p), sample=s) for p in range(40) for s in range(40)
    }
    assert len(seeds) == 1600
    assert derived_seed(123) == 123


def test_the_same_seed_gives_the_same_text_and_another_seed_another(tiny_gpt):
    def text(seed):
        return ids_of(
            Sample(temperature=2.0).generate(tiny_gpt(), [[1]], max_new_tokens=20, seeds=[seed])
        )

    assert text(1) == text(1) != text(2)


def test_generating_leaves_the_global_random_state_alone(tiny_gpt, strategy):
    before = torch.get_rng_state()
    strategy.generate(
        tiny_gpt(drop_rate=0.5).train(), [[1], [2, 3]], max_new_tokens=3, num_samples=2
    )
    assert torch.equal(torch.get_rng_state(), before)


# ---- how a row ends


def test_rows_of_a_batch_end_on_their_own_and_the_loop_with_the_last(countdown):
    model = countdown()
    found = Greedy().generate(model, [[4], [2], [9, 1]], max_new_tokens=9, eos_id=0)
    assert ids_of(found) == [[[3, 2, 1, 0]], [[1, 0]], [[0]]]
    assert {row.finish_reason for [row] in found} == {"end_of_text"}
    assert len(model.passes) == 4


def test_without_an_end_token_all_tokens_are_generated(countdown):
    [[row]] = Greedy().generate(countdown(), [[2]], max_new_tokens=4)
    assert (row.ids, row.finish_reason) == ([1, 0, 9, 8], "length")


def test_a_row_ends_when_stop_says_so_of_its_new_ids(countdown):
    [[first], [second]] = Greedy().generate(
        countdown(), [[5, 4, 9], [6]], max_new_tokens=9, stop=lambda ids: ids[-2:] == [5, 4]
    )
    assert (first.ids, first.finish_reason) == ([8, 7, 6, 5, 4], "stop")
    assert (second.ids, second.finish_reason) == ([5, 4], "stop")


def test_a_prompt_neither_ends_nor_stops_its_continuation(countdown):
    [[row]] = Greedy().generate(
        countdown(), [[0, 5]], max_new_tokens=3, eos_id=0, stop=lambda ids: 5 in ids
    )
    assert (row.ids, row.finish_reason) == ([4, 3, 2], "length")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"eos_id": 3, "stop": lambda ids: True}, "end_of_text"),
        ({"stop": lambda ids: True}, "stop"),
        ({"eos_id": 2, "stop": lambda ids: False}, "length"),
    ],
)
def test_of_several_reasons_to_end_at_once_the_text_itself_comes_first(countdown, settings, reason):
    [[row]] = Greedy().generate(countdown(), [[4]], max_new_tokens=1, **settings)
    assert (row.ids, row.finish_reason) == ([3], reason)


# ---- log-probabilities


def test_log_probabilities_are_those_of_the_model_whatever_the_filters(countdown):
    [[row]] = Sample(temperature=0.1, top_k=1).generate(countdown(), [[4]], max_new_tokens=3)
    assert row.logprobs == pytest.approx(
        [1 - math.log(math.e + 9)] * 3
    )  # of one logit of 1 among nine of 0


# ---- the stream


def test_a_stream_yields_the_tokens_of_generate_row_by_row_as_they_come(
    tiny_gpt, random_ids, strategy
):
    model, prompts = tiny_gpt(), random_ids(3, 1)
    settings = {"max_new_tokens": 6, "num_samples": 2, "seeds": [4, 5], "eos_id": 7}
    tokens = list(strategy.stream(model, prompts, **settings))
    assert gather(iter(tokens), 2, 2) == strategy.generate(model, prompts, **settings)
    assert [token.row for token in tokens[:4]] == [0, 1, 2, 3]
    for row in range(4):
        reasons = [token.finish_reason for token in tokens if token.row == row]
        assert reasons[:-1] == [None] * (len(reasons) - 1) and reasons[-1] is not None


def test_a_stream_computes_no_token_before_it_is_asked_for(countdown):
    model = countdown()
    tokens = Greedy().stream(model, [[4]], max_new_tokens=5)
    assert model.passes == []
    for n in range(1, 6):
        next(tokens)
        assert len(model.passes) == n


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored_even_if_nobody_reads_to_the_end(tiny_gpt, training):
    model = tiny_gpt().train(training)
    Greedy().generate(model, [[1]], max_new_tokens=3)
    assert model.training is training
    stream = Greedy().stream(model, [[1]], max_new_tokens=3)
    next(stream)
    assert not model.training
    stream.close()
    assert model.training is training


def test_gradients_are_recorded_between_two_streamed_tokens_and_after_a_stream_nobody_reads(
    tiny_gpt,
):
    stream = Greedy().stream(tiny_gpt(), [[1]], max_new_tokens=3)
    next(stream)
    assert torch.is_grad_enabled()
    next(stream)
    stream.close()
    assert torch.is_grad_enabled()


# ---- what is refused


def test_several_samples_of_a_strategy_that_draws_nothing_are_refused(countdown):
    Greedy().check(countdown(), num_samples=1)
    with pytest.raises(ValueError, match=r"num_samples \(2\) must be 1"):
        Greedy().check(countdown(), num_samples=2)
