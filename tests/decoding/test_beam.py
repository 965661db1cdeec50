import itertools
from collections import Counter

import pytest
import torch

from firstlight.decoding.base import Continuation
from firstlight.decoding.beam import BeamSearch
from firstlight.decoding.greedy import Greedy
from firstlight.foreign.gpt2 import to_gpt2

pytestmark = pytest.mark.cpu

ROUNDING = {"rel": 1e-5, "abs": 1e-5}
"""float32 sums of a dozen terms, in another order."""


@torch.no_grad()
def search(
    model, prompt, *, n_beams, max_new_tokens, length_penalty=1.0, early_stopping=True, eos_id=None
):
    """Beam search without a cache and with all candidates in one sorted list: [(score, ids)], best
    first.
    """
    beams, complete = [(0.0, [])], []
    for length in range(1, max_new_tokens + 1):
        windows = torch.tensor([[*prompt, *ids][-model.context_length :] for _, ids in beams])
        steps = model(windows)[:, -1].log_softmax(dim=-1).tolist()
        candidates = [
            (total + logprob, [*ids, token])
            for (total, ids), logprobs in zip(beams, steps, strict=True)
            for token, logprob in enumerate(logprobs)
        ]
        candidates.sort(key=lambda c: -c[0])
        ended = [c for c in candidates[:n_beams] if c[1][-1] == eos_id]
        beams = [c for c in candidates if c[1][-1] != eos_id][:n_beams]
        ended += beams if length == max_new_tokens else []
        complete += [(total / len(ids) ** length_penalty, ids) for total, ids in ended]
        complete = sorted(complete, key=lambda c: -c[0])[:n_beams]
        furthest = max_new_tokens if length_penalty > 0 else length
        if len(complete) == n_beams and (
            early_stopping or beams[0][0] / furthest**length_penalty <= complete[-1][0]
        ):
            break
    return complete


def assert_same(found: list[Continuation], expected):
    """Are these the continuations of [(score, ids)]?"""
    assert [row.ids for row in found] == [ids for _, ids in expected]
    assert [row.score for row in found] == pytest.approx(
        [score for score, _ in expected], **ROUNDING
    )


# ---- the same texts and scores as others find


@pytest.fixture
def common_ids():
    """The ids that a model's own texts are made of: the end of text, where it is to come."""

    def count(model, prompts, n):
        texts = BeamSearch(n_beams=4).generate(model, prompts, max_new_tokens=8, num_samples=4)
        counts = Counter(token for rows in texts for row in rows for token in row.ids)
        return [token for token, _ in counts.most_common(n)]

    return count


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("n_beams", [2, 5])
def test_batches_are_the_uncached_search_of_each_prompt_alone(
    tiny_gpt, random_ids, common_ids, n_beams, early_stopping, length_penalty
):
    model, prompts = tiny_gpt(context_length=8), random_ids(2, 5, 8, 11)
    settings = {
        "n_beams": n_beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }
    decoding, n_ended = BeamSearch(**settings), 0
    for eos_id in (None, *common_ids(model, prompts, 2)):
        found = decoding.generate(
            model, prompts, max_new_tokens=7, num_samples=n_beams, eos_id=eos_id
        )
        for prompt, continuations in zip(prompts, found, strict=True):
            assert_same(
                continuations, search(model, prompt, max_new_tokens=7, eos_id=eos_id, **settings)
            )
            n_ended += sum(row.finish_reason == "end_of_text" for row in continuations)
    assert n_ended > 4  # or nothing has been said about ends


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture
def twins(tiny_gpt, transformers):
    """A GPT of ours and transformers' with the same weights."""
    ours = tiny_gpt(context_length=24, qkv_bias=True, seed=1)
    config = transformers.GPT2Config(
        vocab_size=31, n_positions=24, n_embd=12, n_head=3, n_layer=2, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(to_gpt2(ours.state_dict(), n_layers=2))
    return ours, theirs


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    ("early_stopping", "their_name"), [(True, True), (False, "never")], ids=["early", "late"]
)
@pytest.mark.one_in(2)
def test_texts_and_scores_are_those_of_transformers(
    twins, random_ids, common_ids, early_stopping, their_name, length_penalty
):
    (ours, theirs), prompts, n_ended = twins, random_ids(1, 4, 9), 0
    for n_beams, eos_id, prompt in itertools.product((2, 4), common_ids(ours, prompts, 2), prompts):
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8,
            num_beams=n_beams,
            num_return_sequences=n_beams,
            do_sample=False,
            early_stopping=their_name,
            length_penalty=length_penalty,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        decoding = BeamSearch(
            n_beams=n_beams, length_penalty=length_penalty, early_stopping=early_stopping
        )
        [found] = decoding.generate(
            ours, [prompt], max_new_tokens=8, num_samples=n_beams, eos_id=eos_id
        )
        rows = [row[len(prompt) :] for row in out.sequences.tolist()]
        rows = [
            row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows
        ]  # without padding
        assert_same(found, list(zip(out.sequences_scores.tolist(), rows, strict=True)))
        n_ended += sum(row.finish_reason == "end_of_text" for row in found)
    assert n_ended > 4  # or nothing has been said about ends


# ---- what beams are


def test_one_beam_is_greedy(tiny_model, random_ids):
    model, prompts = tiny_model(context_length=8), random_ids(2, 5, 8, 11)
    for eos_id in (None, 1, 18):
        settings = {"max_new_tokens": 9, "eos_id": eos_id}
        greedy = Greedy().generate(model, prompts, **settings)
        for [beam], [row] in zip(
            BeamSearch(n_beams=1).generate(model, prompts, **settings), greedy, strict=True
        ):
            assert (beam.ids, beam.finish_reason) == (row.ids, row.finish_reason)
            assert beam.logprobs == pytest.approx(row.logprobs, **ROUNDING)


def test_one_beam_is_greedy_also_where_logits_are_equal(tiny_gpt):
    model = tiny_gpt(vocab_size=4000)
    with torch.no_grad():
        model.out_head.weight[2000:] = model.out_head.weight[:2000]  # every id has a twin
    [[beam]] = BeamSearch(n_beams=1).generate(model, [[5]], max_new_tokens=9)
    [[row]] = Greedy().generate(model, [[5]], max_new_tokens=9)
    assert beam.ids == row.ids
    assert max(row.ids) < 2000


def test_beams_as_many_as_texts_find_the_most_probable_text_of_all(tiny_model):
    model = tiny_model(vocab_size=8, seed=2)
    texts = list(itertools.product(range(8), repeat=2))
    with torch.no_grad():
        steps = model(torch.tensor([[3, *text] for text in texts])).log_softmax(dim=-1)
    totals = [
        float(step[0, first] + step[1, second])
        for step, (first, second) in zip(steps, texts, strict=True)
    ]
    [found] = BeamSearch(n_beams=4, length_penalty=0.0).generate(
        model, [[3]], max_new_tokens=2, num_samples=4
    )
    # Four of eight go on after the first token; here the best text is one of theirs, and not the
    # greedy one.
    assert tuple(found[0].ids) == texts[totals.index(max(totals))]
    assert found[0].score == pytest.approx(max(totals), **ROUNDING)
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)


def test_a_score_is_the_mean_log_probability_unless_told_otherwise(tiny_gpt, random_ids):
    for penalty in (-0.5, 0.0, 1.0, 2.0):
        decoding = BeamSearch(n_beams=3, length_penalty=penalty)
        for row in decoding.generate(
            tiny_gpt(), random_ids(4), max_new_tokens=6, num_samples=3, eos_id=1
        )[0]:
            assert row.score == pytest.approx(
                sum(row.logprobs) / len(row.ids) ** penalty, **ROUNDING
            )


def test_the_best_of_several_samples_are_the_best_of_all(tiny_gpt, random_ids):
    decoding, prompts = BeamSearch(n_beams=4), random_ids(3, 6)
    every = decoding.generate(tiny_gpt(), prompts, max_new_tokens=6, num_samples=4, eos_id=1)
    for n in (1, 2, 3):
        some = decoding.generate(tiny_gpt(), prompts, max_new_tokens=6, num_samples=n, eos_id=1)
        assert some == [rows[:n] for rows in every]
    assert len({tuple(row.ids) for row in every[0]}) == 4


def test_one_new_token_gives_the_most_probable_ones(tiny_gpt):
    model = tiny_gpt()
    with torch.no_grad():
        best = model(torch.tensor([[7, 8]]))[0, -1].log_softmax(dim=-1).topk(3)
    [found] = BeamSearch(n_beams=3).generate(model, [[7, 8]], max_new_tokens=1, num_samples=3)
    assert_same(
        found,
        [(score, [token]) for score, token in zip(*map(torch.Tensor.tolist, best), strict=True)],
    )


def test_a_vocabulary_twice_as_large_as_the_beams_is_enough(tiny_gpt):
    model = tiny_gpt(vocab_size=8)
    decoding = BeamSearch(n_beams=4)
    decoding.check(model, num_samples=4)
    [found] = decoding.generate(model, [[1]], max_new_tokens=5, num_samples=4, eos_id=2)
    assert_same(found, search(model, [1], n_beams=4, max_new_tokens=5, eos_id=2))


# ---- ends


def test_a_stop_ends_a_beam_and_the_others_go_on(tiny_gpt):
    model = tiny_gpt()
    plain = BeamSearch(n_beams=3).generate(model, [[1, 2]], max_new_tokens=6, num_samples=3)[0]
    stop = plain[0].ids[:2]
    found = BeamSearch(n_beams=3, early_stopping=False).generate(
        model, [[1, 2]], max_new_tokens=6, num_samples=3, stop=lambda ids: ids[-2:] == stop
    )[0]
    stopped = [row for row in found if row.finish_reason == "stop"]
    assert stopped
    for row in found:
        ends = [n for n in range(2, len(row.ids) + 1) if row.ids[n - 2 : n] == stop]
        assert ends == ([len(row.ids)] if row in stopped else [])


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_stop_that_ends_every_candidate_ends_the_search(tiny_gpt, early_stopping):
    model = tiny_gpt()
    decoding = BeamSearch(n_beams=3, early_stopping=early_stopping)
    found = decoding.generate(
        model, [[1], [2, 3]], max_new_tokens=50, num_samples=3, stop=lambda ids: len(ids) == 2
    )
    for rows in found:
        assert [(len(row.ids), row.finish_reason) for row in rows] == [(2, "stop")] * 3


def test_candidates_may_die_out_beside_one_that_goes_on(tiny_gpt, random_ids):
    model, prompts = tiny_gpt(), random_ids(1, 3)
    first = BeamSearch(n_beams=4).generate(model, prompts, max_new_tokens=1)[0][0].ids[0]
    decoding = BeamSearch(n_beams=4, early_stopping=False, length_penalty=2.0)
    # All texts but those that begin with `first` stop at once: one beam of the first prompt lives
    # among dead ones.
    found = decoding.generate(
        model, prompts, max_new_tokens=4, num_samples=4, stop=lambda ids: ids[0] != first
    )
    assert found[0][0].finish_reason == "length"
    for rows in found:
        assert len(rows) == 4
        assert all(row.score > -torch.inf and len(row.logprobs) == len(row.ids) for row in rows)
        assert all((row.finish_reason == "length") == (row.ids[0] == first) for row in rows)


def test_searching_on_when_enough_texts_are_complete_finds_no_worse_and_sometimes_a_better_one(
    tiny_gpt, random_ids, common_ids
):
    model, prompts = tiny_gpt(context_length=16), random_ids(3, 5, 2, 4)
    better = 0
    for eos_id in common_ids(model, prompts, 4):
        late, early = (
            BeamSearch(n_beams=3, early_stopping=stops).generate(
                model, prompts, max_new_tokens=9, eos_id=eos_id
            )
            for stops in (False, True)
        )
        for [other], [row] in zip(late, early, strict=True):
            assert other.score >= row.score
            better += other.score > row.score
    assert better > 0


# ---- the model and the caller


def test_the_mode_of_the_model_and_the_random_state_are_left_alone(tiny_gpt):
    model, before = tiny_gpt(drop_rate=0.5).train(), torch.get_rng_state()
    BeamSearch(n_beams=2).generate(model, [[1]], max_new_tokens=3)
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_keeps_nothing_in_the_cache_can_be_searched(countdown):
    [[row]] = BeamSearch(n_beams=3).generate(countdown(), [[1, 5]], max_new_tokens=8)
    assert row.ids == [4, 3, 2, 1, 0, 9, 8, 7]


def test_more_beams_than_half_the_vocabulary_are_refused(tiny_gpt):
    with pytest.raises(ValueError, match=r"n_beams \(16\) must be at most half the vocabulary, 31"):
        BeamSearch(n_beams=16).check(tiny_gpt(vocab_size=31))


def test_more_samples_than_beams_are_refused(tiny_gpt):
    with pytest.raises(ValueError, match=r"num_samples \(5\) must be at most n_beams \(4\)"):
        BeamSearch(n_beams=4).check(tiny_gpt(), num_samples=5)


@pytest.mark.parametrize("penalty", [-10.0, 10.0])
def test_the_strongest_length_penalties_are_numbers_for_the_longest_texts(penalty):
    score = BeamSearch(n_beams=1, length_penalty=penalty).score
    assert 0 > score(-1e6, 10**6) > -torch.inf
