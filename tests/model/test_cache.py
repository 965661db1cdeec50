import pytest
import torch

from firstlight.model.cache import KVCache

pytestmark = pytest.mark.cpu

ROUNDING = {"atol": 1e-5, "rtol": 0}
"""float32 sums of a dozen terms, in another order."""


@pytest.fixture
def cache():
    """An empty cache of 2 layers and 6 places."""
    return KVCache(n_layers=2, context_length=6)


@pytest.fixture
def some_ids():
    """A factory of random ids (B, T), the same every time."""
    return lambda batch, length: torch.randint(
        31, (batch, length), generator=torch.Generator().manual_seed(1)
    )


def fill(cache, tokens):
    """Let each layer of `cache` keep `tokens` (B, T) themselves, times 10 in the second layer; what
    each returns.
    """
    returned = []
    for layer, factor in enumerate((1, 10)):
        keys = (tokens * factor).float()[:, None, :, None]  # (B, H = 1, T, D = 1)
        returned.append([kept[:, 0, :, 0].tolist() for kept in cache.update(layer, keys, -keys)])
    cache.advance(tokens.shape[1])
    return returned


# ---- the same logits as without


@pytest.mark.parametrize("chunks", [[1] * 6, [2, 3, 1], [6], [5, 1], [1, 5]], ids=str)
def test_logits_with_a_cache_are_those_without(tiny_model, some_ids, chunks):
    model, ids = tiny_model(), some_ids(3, 6)
    cache = model.new_cache()
    pieces = [model(chunk, cache) for chunk in ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), **ROUNDING)


@pytest.mark.parametrize("chunks", [[8], [5, 1, 1, 1], [4, 3, 1], [7, 1]], ids=str)
@torch.no_grad()
def test_logits_of_padded_rows_are_those_of_each_row_alone(tiny_model, some_ids, chunks):
    model, ids, lengths = tiny_model(), some_ids(4, 8), (8, 5, 6, 8)
    cache = model.new_cache()
    cache.padding = torch.tensor([8 - length for length in lengths])
    logits = torch.cat([model(chunk, cache) for chunk in ids.split(chunks, dim=1)], dim=1)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            logits[row, -length:], model(ids[row : row + 1, -length:])[0], **ROUNDING
        )
    assert logits.isfinite().all()  # of the padding, too: a nan would spread through the values


@torch.no_grad()
def test_what_stands_in_the_padding_reaches_no_logits(tiny_model, some_ids):
    model, ids = tiny_model(), some_ids(2, 6)
    found = []
    for token in (0, 17):
        ids[1, :4] = token
        cache = model.new_cache()
        cache.padding = torch.tensor([0, 4])
        found.append(model(ids, cache)[:, 4:])
    assert torch.equal(*found)


# ---- what it returns and keeps


def test_each_layer_returns_all_keys_and_values_up_to_now(cache):
    fill(cache, torch.tensor([[1, 2], [3, 4]]))
    first, second = fill(cache, torch.tensor([[5], [6]]))
    assert first == [[[1, 2, 5], [3, 4, 6]], [[-1, -2, -5], [-3, -4, -6]]]
    assert second[0] == [[10, 20, 50], [30, 40, 60]]
    assert (cache.length, cache.room) == (3, 3)


def test_memory_is_allocated_once(cache):
    assert cache.keys == []
    where = set()
    for token in range(6):
        for layer in range(2):
            keys = torch.full((2, 3, 1, 4), float(token))
            cache.update(layer, keys, keys)
        cache.advance(1)
        where.add(tuple(layer.data_ptr() for layer in (*cache.keys, *cache.values)))
    assert len(where) == 1
    assert [layer.shape for layer in cache.keys] == [(2, 3, 6, 4)] * 2


@pytest.mark.parametrize(("autocast", "kept"), [(False, torch.float32), (True, torch.bfloat16)])
def test_bfloat16_is_kept_as_float32_on_a_cpu_unless_autocast_would_cast_it_back(
    cache, autocast, kept
):
    keys = torch.ones(2, 3, 1, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", enabled=autocast):
        returned, _ = cache.update(0, keys, keys)
    assert returned.dtype == kept


def test_more_than_a_context_is_a_mistake_of_the_caller(cache):
    fill(cache, torch.ones(1, 5))
    with pytest.raises(AssertionError, match="slides the window"):
        fill(cache, torch.ones(1, 2))


def test_what_is_rewound_is_overwritten(cache):
    fill(cache, torch.tensor([[1, 2, 3, 4]]))
    cache.rewind(1)
    assert (cache.length, cache.room) == (1, 5)
    assert fill(cache, torch.tensor([[7, 8]]))[0][0] == [[1, 7, 8]]


@pytest.mark.parametrize("length", [-1, 5])
def test_a_cache_is_rewound_to_what_it_holds_only(cache, length):
    fill(cache, torch.ones(1, 4))
    with pytest.raises(AssertionError):
        cache.rewind(length)


@pytest.mark.parametrize("rows", [[2, 0, 0, 1], [1], [0, 1, 2], [2, 1, 0]], ids=str)
def test_rows_are_selected_with_their_padding_in_every_layer(cache, rows):
    tokens = torch.tensor([[1, 2], [3, 4], [5, 6]])
    cache.padding = torch.tensor([0, 1, 0])
    fill(cache, tokens)
    cache.select(torch.tensor(rows))
    new = torch.full((len(rows), 1), 9)
    first, second = fill(cache, new)
    expected = torch.cat([tokens[rows], new], dim=1)
    assert first == [expected.tolist(), (-expected).tolist()]
    assert second[0] == (10 * expected).tolist()
    assert cache.padding.tolist() == [[0, 1, 0][row] for row in rows]


def test_rows_that_were_one_go_different_ways(cache):
    fill(cache, torch.tensor([[1, 2]]))
    cache.select(torch.tensor([0, 0]))
    assert fill(cache, torch.tensor([[3], [4]]))[0][0] == [[1, 2, 3], [1, 2, 4]]


def test_an_empty_cache_has_nothing_to_select(cache):
    cache.select(torch.tensor([0, 0]))
    assert fill(cache, torch.tensor([[1], [2]]))[0][0] == [[1], [2]]


# ---- positions and masks


def test_positions_go_on_where_the_cache_ends(cache):
    assert cache.positions(3, torch.device("cpu")).tolist() == [0, 1, 2]
    cache.advance(3)
    assert cache.positions(2, torch.device("cpu")).tolist() == [3, 4]


def test_positions_of_padded_rows_begin_after_the_padding(cache):
    cache.padding = torch.tensor([0, 2])
    assert cache.positions(4, torch.device("cpu")).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    cache.advance(4)
    assert cache.positions(1, torch.device("cpu")).tolist() == [[4], [2]]


def test_no_mask_is_needed_for_a_beginning_or_for_one_token(cache):
    assert cache.mask(4, torch.device("cpu")) is None
    cache.advance(4)
    assert cache.mask(1, torch.device("cpu")) is None


def test_several_tokens_after_others_see_those_and_themselves(cache):
    cache.advance(2)
    assert cache.mask(3, torch.device("cpu")).int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_nothing_sees_the_padding_but_the_padding_itself(cache):
    cache.padding = torch.tensor([0, 2])
    mask = cache.mask(3, torch.device("cpu"))
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    cache.advance(3)
    assert cache.mask(2, torch.device("cpu"))[1, 0].int().tolist() == [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
