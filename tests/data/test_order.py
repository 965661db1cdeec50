import tracemalloc
from itertools import chain, islice

import pytest
import torch
from torch.utils.data import DataLoader

from firstlight.data.order import BookOrder, SeededOrder

WINDOWS = 11
CUTS = [(True, True), (True, False), (False, True), (False, False)]


def batches(n, *, order=None, start=0, shuffle=True, drop_last=True, batch_size=3):
    endless = (order or SeededOrder(seed=1)).train_batches(
        WINDOWS, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, start=start
    )
    return [batch.tolist() for batch in islice(endless, n)]


def epochs(n, **settings):
    per_epoch = -(-WINDOWS // settings["batch_size"])
    flat = batches(n * per_epoch, drop_last=False, **settings)
    return [list(chain(*flat[i : i + per_epoch])) for i in range(0, len(flat), per_epoch)]


def test_every_epoch_is_another_permutation():
    seen = epochs(6, batch_size=3)
    assert all(sorted(epoch) == list(range(WINDOWS)) for epoch in seen)
    assert len(set(map(tuple, seen))) == 6


def test_without_shuffling_windows_come_in_their_own_order():
    assert epochs(2, batch_size=4, shuffle=False) == [list(range(WINDOWS))] * 2


def test_dropping_the_last_batch_leaves_full_batches_without_repeats():
    epoch = batches(3, drop_last=True)
    assert [len(b) for b in epoch] == [3, 3, 3]
    assert len(set(chain(*epoch))) == 9


def test_which_windows_are_dropped_changes_from_epoch_to_epoch():
    flat = batches(30, drop_last=True)
    dropped = {
        frozenset(range(WINDOWS)) - frozenset(chain(*flat[i : i + 3])) for i in range(0, 30, 3)
    }
    assert len(dropped) > 1


@pytest.mark.parametrize(("shuffle", "drop_last"), CUTS)
def test_a_batch_is_the_same_wherever_reading_began(shuffle, drop_last):
    whole = batches(14, shuffle=shuffle, drop_last=drop_last)
    for start in range(12):
        assert (
            batches(14 - start, start=start, shuffle=shuffle, drop_last=drop_last) == whole[start:]
        )


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    expected = batches(8, order=SeededOrder(seed=1))
    with torch.random.fork_rng():
        torch.manual_seed(99)
        before = torch.get_rng_state()
        assert batches(8, order=SeededOrder(seed=1)) == expected
        assert torch.equal(torch.get_rng_state(), before)
    assert batches(8, order=SeededOrder(seed=2)) != expected


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("limit", [None, 1, 3, 99])
def test_an_evaluation_takes_the_same_windows_whatever_seed_training_and_global_state(split, limit):
    def windows(order):
        return [
            b.tolist() for b in order.eval_batches(WINDOWS, batch_size=3, split=split, limit=limit)
        ]

    order = SeededOrder(seed=1)
    expected = windows(order)
    batches(5, order=order)
    order.seed_batch(7, 0, torch.device("cpu"))
    before = torch.get_rng_state()
    assert windows(order) == windows(SeededOrder(seed=2)) == expected
    assert torch.equal(torch.get_rng_state(), before)
    flat = list(chain(*expected))
    assert len(flat) == len(set(flat)) == min(WINDOWS, 3 * (limit or 99))


def test_a_limited_evaluation_of_training_reaches_the_far_end_of_the_text():
    first, second = SeededOrder(seed=1).eval_batches(100, batch_size=5, split="train", limit=2)
    assert first.tolist() + second.tolist() == list(range(0, 100, 10))


def test_dropout_draws_anew_for_each_batch_and_rank_and_again_for_the_same():
    def drawn(seed, batch, rank):
        SeededOrder(seed=seed).seed_batch(batch, rank, torch.device("cpu"))
        return torch.rand(4).tolist()

    keys = [(1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]
    with torch.random.fork_rng():
        first = [drawn(*key) for key in keys]
        torch.rand(3)
        assert [drawn(*key) for key in keys] == first
    assert len(set(map(tuple, first))) == len(keys)


def test_the_books_order_draws_what_its_loaders_draw():
    numbers = list(range(WINDOWS))

    def loaders():
        """The book's train and validation loaders, read as its training loop reads them."""
        training = DataLoader(numbers, batch_size=3, shuffle=True, drop_last=True)
        validation = DataLoader(numbers, batch_size=3, shuffle=False, drop_last=False)
        for _ in range(3):
            for number, batch in enumerate(training):
                yield batch
                torch.rand(1)  # dropout
                if number == 1:
                    yield from islice(training, 2)
                    yield from islice(validation, 2)

    def ours():
        order = BookOrder()
        training = order.train_batches(WINDOWS, batch_size=3, shuffle=True, drop_last=True, start=0)
        for number, batch in enumerate(islice(training, 9)):
            yield batch
            order.seed_batch(number, 0, torch.device("cpu"))
            torch.rand(1)
            if number % 3 == 1:
                for split in ("train", "val"):
                    yield from order.eval_batches(WINDOWS, batch_size=3, split=split, limit=2)

    def read(batches):
        torch.manual_seed(123)
        return [b.tolist() for b in batches], torch.get_rng_state()

    with torch.random.fork_rng():
        (expected, state), (got, our_state) = read(loaders()), read(ours())
    assert got == expected
    assert torch.equal(our_state, state)


def test_the_order_of_a_run_that_an_earlier_version_began():
    expected = [[8, 4, 10], [3, 0], [1, 10, 9], [5, 8, 4]]  # two of the first epoch's are left
    assert batches(4, order=SeededOrder(seed=123), start=2, drop_last=False) == expected


def test_an_order_too_long_to_be_stored_is_computed_batch_by_batch():
    n_windows = 10**10 + 7
    order = SeededOrder(seed=1)

    def read(start, n):
        endless = order.train_batches(
            n_windows, batch_size=1000, shuffle=True, drop_last=True, start=start
        )
        return torch.stack(list(islice(endless, n)))

    per_epoch = n_windows // 1000
    tracemalloc.start()
    last_and_first = read(per_epoch - 20, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # numpy's arrays are traced
    assert torch.equal(last_and_first[25:], read(per_epoch + 5, 15))
    assert last_and_first.min() >= 0 and last_and_first.max() < n_windows
    for epoch in last_and_first.split(20):
        assert len(epoch.unique()) == epoch.numel()
    first, second = order.eval_batches(n_windows, batch_size=4, split="train", limit=2)
    assert [*first, *second] == [place * n_windows // 8 for place in range(8)]
    assert next(order.eval_batches(n_windows, batch_size=4, split="val", limit=None))[3] == 3


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_computed_order_has_every_window_once_an_epoch(monkeypatch, drop_last):
    monkeypatch.setattr("firstlight.data.order.MOST_STORED", 5)
    seen = batches(20, drop_last=drop_last)
    per_epoch = 3 if drop_last else 4
    for first in range(0, len(seen) - per_epoch, per_epoch):
        epoch = list(chain(*seen[first : first + per_epoch]))
        assert len(set(epoch)) == len(epoch) == (9 if drop_last else WINDOWS)
    assert batches(15, start=5, drop_last=drop_last) == seen[5:]
