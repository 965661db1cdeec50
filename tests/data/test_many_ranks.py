"""The order of the data on 1,024 processes, whose number changes on the way."""

from collections import Counter
from functools import partial
from itertools import chain

import pytest
import torch

from firstlight.data import order as orders
from firstlight.data.order import SeededOrder
from firstlight.data.shards import mixture
from firstlight.data.token_data import TokenDataModule, share_of
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.windows import TensorWindows


class Numbered(TokenDataModule):
    """Windows of a single token each, which is the number of the window."""

    def __init__(self, n_windows, *, sources=None, seed=1, **settings):
        super().__init__(
            tokenizer=BytesTokenizer(), order=SeededOrder(seed=seed), context_length=1, **settings
        )
        self.n_windows, self.sources = n_windows, sources
        self.setup()

    def read(self, stage):
        # The last token is only a target.
        ids = torch.arange(self.n_windows + 1)
        return dict.fromkeys(("train", "val"), TensorWindows(ids, context_length=1, stride=1))

    def sha256(self):
        return "0"

    def train_order(self, start):
        places = super().train_order(start)
        if self.sources is None:
            return places
        return self.sources.batches(places, start, self.batches_per_epoch)


def loaded(loader):
    """The windows of each batch that a loader gives a process."""
    return [inputs[:, 0].tolist() for inputs, _ in loader]


def read_by(data, world, start, stop):
    """What each of `world` processes reads of the batches `start` to `stop`: a row of shares a
    batch."""
    by_rank = [
        loaded(data.train_batches(start=start, stop=stop, share=(rank, world)))
        for rank in range(world)
    ]
    return list(zip(*by_rank, strict=True))


def elastic_run(data, worlds, *, n_batches):
    """The shares of each batch of a run that resumes with another number of processes again and
    again: with each of `worlds` it makes `n_batches`."""
    rows = []
    for phase, world in enumerate(worlds):
        rows += read_by(data, world, phase * n_batches, (phase + 1) * n_batches)
    return rows


def check_shares(rows):
    """Shares of a batch have no window in common, and differ by one window at most."""
    for shares in rows:
        windows = list(chain(*shares))
        assert len(set(windows)) == len(windows)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def check_epochs(data, rows):
    """In an epoch no window is read twice, by whichever process, and none is left out but those
    that do not fill the last batch."""
    per_epoch = data.batches_per_epoch
    assert len(rows) >= 2 * per_epoch
    for first in range(0, len(rows) - per_epoch + 1, per_epoch):
        read = list(chain(*chain(*rows[first : first + per_epoch])))
        assert len(set(read)) == len(read)
        left_out = data.n_windows % data.batch_size if data.drop_last else 0
        assert len(read) == data.n_windows - left_out


def check_order(data, rows):
    """The global batches are those of one process that never stopped."""
    alone = loaded(data.train_batches(start=0, stop=len(rows)))
    assert [list(chain(*shares)) for shares in rows] == alone


@pytest.fixture(autouse=True)
def _a_batch_at_once(monkeypatch):
    """What each of 1,024 processes computes here one after the other is no more than it needs."""
    for module in (orders, mixture):
        monkeypatch.setattr(module, "AT_ONCE", 1)


def compute_order(monkeypatch):
    """As for more than 2**24 windows."""
    monkeypatch.setattr(orders, "MOST_STORED", 0)


@pytest.mark.parametrize(("is_computed", "drop_last"), [(False, False), (True, True)])
def test_1024_processes_read_every_window_once_an_epoch(monkeypatch, is_computed, drop_last):
    if is_computed:
        compute_order(monkeypatch)
    data = Numbered(2_500, batch_size=1_100, drop_last=drop_last)
    rows = elastic_run(data, [1024, 96, 1], n_batches=2)
    check_shares(rows)
    check_epochs(data, rows)
    check_order(data, rows)


def test_1000_processes_read_each_source_in_its_share():
    """Of a mixture an epoch has a source's share, and all its windows before one comes again."""
    counts, n_windows = [1_000, 3_000], 4_000
    data = Numbered(n_windows, sources=mixture.Mixture(counts, [1, 1], seed=1), batch_size=1_000)
    rows = elastic_run(data, [1000, 96], n_batches=2)
    check_order(data, rows)
    read = Counter(chain(*chain(*rows)))  # an epoch
    small = [read[window] for window in range(counts[0])]
    large = [read[window] for window in range(counts[0], n_windows)]
    assert small == [2] * 1_000  # half of the epoch's windows
    assert sum(large) == 2_000 and set(large) == {0, 1}


def test_1024_processes_score_every_validation_window_once():
    data = Numbered(2_500, batch_size=1_024)
    scored = [loaded(data.eval_batches_of("val", share=(rank, 1024))) for rank in range(1024)]
    assert sorted(chain(*chain(*scored))) == list(range(2_500))


@pytest.mark.parametrize("world", [1, 2, 3, 7, 10, 11, 12])
def test_shares_are_those_of_tensor_split(world):
    batch = torch.arange(11)
    for rank, part in enumerate(batch.tensor_split(world)):
        assert torch.equal(share_of(batch, rank, world), part)
        halves = batch.tensor_split(2 * world)[2 * rank : 2 * rank + 2]
        assert torch.equal(share_of(batch, rank, world, 2), torch.cat(halves))


def test_shares_that_are_not_cut_from_one_batch_are_noticed():
    """The checks themselves: a window that two processes read, and one that nobody reads."""
    data = Numbered(64, batch_size=16)
    rows = elastic_run(data, [8, 4], n_batches=4)
    twice = [list(map(list, shares)) for shares in rows]
    twice[1][0][0] = twice[1][1][0]
    for check in (check_shares, partial(check_epochs, data)):
        with pytest.raises(AssertionError):
            check(twice)
    with pytest.raises(AssertionError):
        check_epochs(data, [shares[1:] for shares in rows])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_computed", [False, True])
def test_many_epochs_on_up_to_1024_processes_lose_and_repeat_nothing(
    monkeypatch, is_computed, seed
):
    if is_computed:
        compute_order(monkeypatch)
    data = Numbered(50_021, batch_size=4_096, drop_last=seed % 2 == 0, seed=seed)
    worlds = [1024, 512, 768, 1, 1000, 7, 1024, 96]
    rows = elastic_run(data, worlds, n_batches=11)
    check_shares(rows)
    check_epochs(data, rows)
    check_order(data, rows)
