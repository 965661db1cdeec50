import contextlib

import pytest
import torch

from firstlight.decoding.context import Context, evaluating
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.prompt_lookup import PromptLookup
from firstlight.model.cache import Cache, KVCache

pytestmark = pytest.mark.cpu


@pytest.fixture
def uncached_logits():
    """Logits (V,) after each of some rows, each computed alone, of the whole window."""

    @torch.no_grad()
    def compute(model, rows):
        return torch.cat(
            [model(torch.tensor([row[-model.context_length :]]))[:, -1] for row in rows]
        )

    return compute


@pytest.fixture
def assert_same(uncached_logits):
    """Are `logits` (B, V) those after each of `rows`, up to what the order of a float32 sum of 12
    terms changes?
    """

    def check(logits, model, rows):
        torch.testing.assert_close(logits, uncached_logits(model, rows), atol=1e-5, rtol=0)

    return check


@pytest.mark.parametrize(
    "lengths",
    [(1,), (8,), (9,), (20,), (1, 5), (3, 1, 8), (7, 8, 9), (2, 20)],
    ids="prompts of {}".format,
)
@torch.no_grad()
def test_logits_are_those_of_each_row_alone_while_the_window_fills_and_slides(
    tiny_gpt, random_ids, assert_same, lengths
):
    model, rows = tiny_gpt(context_length=8), random_ids(*lengths)
    context = Context(model, rows)
    assert_same(context.start(), model, rows)
    for step in range(12):
        new = random_ids(len(rows), seed=step)[0]
        rows = [[*row, token] for row, token in zip(rows, new, strict=True)]
        assert_same(context.append(torch.tensor(new)[:, None])[:, 0], model, rows)


class Forgetful(KVCache):
    """A cache that can only be emptied, as a state can."""

    can_rewind = False

    def rewind(self, length):
        assert length == 0
        super().rewind(length)


@pytest.fixture(params=["none", "forgetful"])
def other_cache(request, tiny_model):
    """A factory of models that have no cache, or one that cannot be rewound."""

    def make(**changes):
        model = tiny_model(**changes)
        forgetful = Forgetful(n_layers=2, context_length=model.context_length)
        model.new_cache = lambda: None if request.param == "none" else forgetful
        return model

    return make


@pytest.mark.parametrize("lengths", [(1,), (1, 5), (7, 8, 9), (2, 20)], ids="prompts of {}".format)
@torch.no_grad()
def test_a_model_without_a_cache_or_whose_cache_is_a_state_has_the_logits_of_each_row_alone(
    other_cache, random_ids, assert_same, lengths
):
    model, rows = other_cache(context_length=8), random_ids(*lengths)
    context = Context(model, rows)
    assert_same(context.start(), model, rows)
    for step in range(9):
        numbers = torch.arange(len(rows)).flip(0)
        context.select(numbers)
        new = random_ids(len(rows), seed=step)[0]
        rows = [[*rows[n], token] for n, token in zip(numbers, new, strict=True)]
        assert_same(context.append(torch.tensor(new)[:, None])[:, 0], model, rows)


@torch.no_grad()
def test_what_is_dropped_was_never_there_for_them_either(other_cache, assert_same):
    model = other_cache(context_length=8)
    context = Context(model, [[1, 2], [3]])
    context.start()
    context.append(torch.tensor([[4, 5, 6], [7, 8, 9]]))
    context.drop(2)
    logits = context.append(torch.tensor([[10, 11], [12, 13]]))
    assert_same(logits[:, 0], model, [[1, 2, 4, 10], [3, 7, 12]])
    assert_same(logits[:, 1], model, [[1, 2, 4, 10, 11], [3, 7, 12, 13]])


def test_prompt_lookup_with_them_gives_the_plain_text(other_cache):
    model, prompt = other_cache(context_length=32), [1, 2, 3, 4, 1, 2, 3]

    def lookup(model, prompts):
        return PromptLookup(model, prompts, max_guesses=4)

    plain = list(Greedy().stream(model, [prompt], max_new_tokens=20))
    fast = list(Greedy().stream(model, [prompt], max_new_tokens=20, make_context=lookup))
    assert [token.id for token in fast] == [token.id for token in plain]


@torch.no_grad()
def test_a_state_of_one_size_needs_no_window(countdown):
    model = countdown(context_length=4)
    model.new_cache = lambda: Cache(context_length=None)
    context = Context(model, [[5], [7, 8, 9]])
    context.start()
    for _ in range(8):
        context.append(torch.tensor([[1], [2]]))
    assert model.passes == [3] + [1] * 8


@torch.no_grad()
def test_several_tokens_at_once_have_the_logits_of_one_after_another(
    tiny_model, random_ids, assert_same
):
    model, rows, new = tiny_model(context_length=8), random_ids(2, 4), random_ids(4, 4, seed=9)
    context = Context(model, rows)
    context.start()
    logits = context.append(torch.tensor(new))  # exactly as many as there is room for
    assert context.room == 0
    for n in range(4):
        rows = [[*row, ids[n]] for row, ids in zip(rows, new, strict=True)]
        assert_same(logits[:, n], model, rows)
    assert_same(
        context.append(torch.tensor([[1], [2]]))[:, 0], model, [[*rows[0], 1], [*rows[1], 2]]
    )


@torch.no_grad()
def test_more_tokens_at_once_than_there_is_room_for_are_a_mistake_of_the_caller(tiny_gpt):
    context = Context(tiny_gpt(context_length=8), [[1] * 6])
    context.start()
    with pytest.raises(AssertionError):
        context.append(torch.ones(1, 3, dtype=torch.long))


@torch.no_grad()
def test_what_is_dropped_was_never_there(tiny_gpt, assert_same):
    model = tiny_gpt(context_length=8)
    context = Context(model, [[1, 2], [3]])
    context.start()
    context.append(torch.tensor([[4, 5, 6], [7, 8, 9]]))
    context.drop(2)
    assert context.room == 5
    assert_same(
        context.append(torch.tensor([[10], [11]]))[:, 0], model, [[1, 2, 4, 10], [3, 7, 11]]
    )


@pytest.mark.parametrize("lengths", [(2, 4, 1), (8, 3, 7), (9, 2, 12)], ids="prompts of {}".format)
@torch.no_grad()
def test_rows_that_are_reordered_doubled_and_left_out_keep_their_past(
    tiny_model, random_ids, assert_same, lengths
):
    model, rows = tiny_model(context_length=8), random_ids(*lengths)
    context = Context(model, rows)
    context.start()
    for numbers in ([2, 0, 0, 1], [0, 1, 2, 3], [3, 1], [1, 0, 1]):
        context.select(torch.tensor(numbers))
        rows = [[*rows[number], place] for place, number in enumerate(numbers)]
        assert_same(context.append(torch.arange(len(rows))[:, None])[:, 0], model, rows)


@torch.no_grad()
def test_while_the_window_does_not_slide_every_token_is_computed_once(tiny_gpt):
    model, computed = tiny_gpt(context_length=8), []
    model.drop_emb.register_forward_hook(
        lambda _module, _args, output: computed.append(output.shape[1])
    )
    context = Context(model, [[1, 2, 3], [4]])
    context.start()
    for _ in range(7):
        context.append(torch.ones(2, 1, dtype=torch.long))
    assert computed == [3, 1, 1, 1, 1, 1, 8, 8]


@torch.no_grad()
def test_a_model_that_keeps_nothing_in_the_cache_but_its_length_works(countdown):
    context = Context(countdown(context_length=4), [[5], [7, 8, 9]])
    assert context.start().argmax(dim=-1).tolist() == [4, 8]
    context.select(torch.tensor([1, 0, 1]))
    for new in ([3, 4, 0], [1, 2, 3], [4, 5, 6]):
        expected = [(token - 1) % 10 for token in new]
        assert context.append(torch.tensor(new)[:, None])[:, 0].argmax(dim=-1).tolist() == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_a_model_comes_back_also_after_an_error(tiny_gpt, training):
    model = tiny_gpt().train(training)
    with contextlib.suppress(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert all(module.training is training for module in model.modules())
