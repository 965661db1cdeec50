import re
from itertools import islice

import pytest
import torch
from torch import distributed

from firstlight.data.order import BookOrder, SeededOrder
from firstlight.data.text import TextData
from firstlight.data.tokenizers.bpe import BPETokenizer

PROSE = "The lamp went out, and nobody on the quay could say at what hour. " * 40


def text_of(data, split):
    return data.tokenizer.decode(data.ids[split].tolist())


def windows_of(data, split):
    """All inputs and targets of a split, (n, T) each."""
    return data.windows[split][torch.arange(len(data.windows[split]))]


def refusal(data):
    with pytest.raises(ValueError, match=r"must|too few") as caught:
        data.setup()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_verdict_is_counted_as_in_the_book(gpt2_vocabulary, verdict):
    data = TextData(
        path=str(verdict),
        tokenizer=gpt2_vocabulary,
        order=SeededOrder(seed=1),
        context_length=256,
        batch_size=2,
    )
    data.setup()
    assert {name: len(ids) for name, ids in data.ids.items()} == {"train": 4612, "val": 534}
    assert {name: len(windows) for name, windows in data.windows.items()} == {"train": 18, "val": 2}
    assert data.batches_per_epoch == 9
    assert [inputs.shape for inputs, _ in data.eval_batches_of("val")] == [(2, 256)]
    assert data.tokens_after(9) == 4608


def test_targets_are_the_inputs_one_token_later(tiny_data):
    data = tiny_data()
    data.setup()
    for split, ids in data.ids.items():
        inputs, targets = windows_of(data, split)
        assert inputs.flatten().tolist() == ids[: inputs.numel()].tolist()
        assert targets.flatten().tolist() == ids[1 : inputs.numel() + 1].tolist()


def test_training_windows_begin_one_stride_apart_and_validation_windows_do_not_overlap(tiny_data):
    data = tiny_data(stride=3)
    data.setup()
    for split, stride in ("train", 3), ("val", 8):
        ids, (inputs, targets) = data.ids[split], windows_of(data, split)
        starts = range(0, len(ids) - 8, stride)
        assert inputs.tolist() == [ids[s : s + 8].tolist() for s in starts]
        assert targets.tolist() == [ids[s + 1 : s + 9].tolist() for s in starts]


def test_the_last_window_may_end_with_the_last_token(tiny_data):
    data = tiny_data("a" * 17 + "b" * 9, train_ratio=17 / 26)
    data.setup()
    assert [len(data.windows[s]) for s in ("train", "val")] == [2, 1]


def test_a_text_is_split_by_characters_and_no_window_crosses_a_split(tiny_data):
    data = tiny_data("é" * 70 + "v" * 20 + "t" * 10, train_ratio=0.7, test_ratio=0.1)
    data.setup()
    assert {split: text_of(data, split) for split in data.ids} == {
        "train": "é" * 70,
        "val": "v" * 20,
        "test": "t" * 10,
    }
    for split, letters in ("train", "é"), ("val", "v"), ("test", "t"):
        assert set(torch.stack(windows_of(data, split)).unique().tolist()) == set(letters.encode())


def test_documents_are_joined_by_end_of_text_and_may_be_cut_by_a_split(tiny_data):
    data = tiny_data("é" * 40, "b" * 40, "c" * 20, train_ratio=0.6)
    data.setup()
    end = data.tokenizer.end_of_text
    assert data.ids["train"].tolist() == [*"é".encode() * 40, end, *b"b" * 20]
    assert data.ids["val"].tolist() == [*b"b" * 20, end, *b"c" * 20]


def test_a_tokenizer_learns_from_the_training_split_alone(tiny_data):
    def learned(validation):
        data = tiny_data(
            PROSE + validation,
            tokenizer=BPETokenizer(vocab_size=290),
            train_ratio=len(PROSE) / (len(PROSE) + 200),
        )
        data.setup()
        return data.tokenizer.state_dict()

    assert learned("x" * 200) == learned("yz" * 100)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_tokens_are_counted_as_they_are_trained_on(tiny_data, drop_last, batch_size):
    data = tiny_data(
        "a" * 100 + "v" * 20, train_ratio=100 / 120, drop_last=drop_last, batch_size=batch_size
    )
    data.setup()
    trained = 0
    batches = data.order.train_batches(
        len(data.windows["train"]),
        batch_size=batch_size,
        shuffle=True,
        drop_last=drop_last,
        start=0,
    )
    for number, batch in enumerate(islice(batches, 3 * data.batches_per_epoch + 2)):
        assert data.tokens_after(number) == trained
        trained += batch.numel() * 8


def test_training_resumes_at_any_batch_of_the_run(tiny_data):
    def trained(start):
        data = tiny_data()
        data.setup()
        return [inputs.tolist() for inputs, _ in data.train_batches(start=start, stop=150)]

    whole = trained(0)
    assert len(whole) == 150
    assert trained(80) == whole[80:]


def test_a_trainer_of_lightnings_own_reads_its_share_as_torch_distributed_tells_it(
    tiny_data, monkeypatch
):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    data = tiny_data(batch_size=4)
    data.setup()
    whole = data.train_batches(start=0, stop=data.batches_per_epoch)
    for (share, _), (batch, _) in zip(data.train_dataloader(), whole, strict=True):
        assert torch.equal(share, batch[2:])


def test_a_trainer_of_lightnings_own_reads_one_epoch_and_all_of_validation(tiny_data):
    data = tiny_data(batch_size=4)
    data.setup()
    assert len(list(data.train_dataloader())) == data.batches_per_epoch
    validation = data.val_dataloader()
    assert sum(len(targets) for _, targets in validation) == len(data.windows["val"])


def test_the_shares_of_several_processes_make_up_the_batch_of_one(tiny_data):
    def batches(*share):
        data = tiny_data(batch_size=4)
        data.setup()
        return [inputs for inputs, _ in data.train_batches(start=0, stop=9, share=share)]

    shares = zip(batches(0, 2), batches(1, 2), strict=True)
    assert all(
        torch.equal(torch.cat(pair), whole)
        for pair, whole in zip(shares, batches(0, 1), strict=True)
    )


@pytest.mark.parametrize(
    "texts", [[PROSE[:160]], [PROSE[:80], PROSE[80:160]]], ids=["one document", "two documents"]
)
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
@pytest.mark.parametrize("test_ratio", [0.0, 0.2])
def test_both_ways_out_of_a_short_validation_split_work(tiny_data, texts, tokenizer, test_ratio):
    def data(**changes):
        settings = {
            "context_length": 20,
            "train_ratio": 0.7 if test_ratio else 0.9,
            "batch_size": 1,
        }
        settings |= {"test_ratio": test_ratio, **changes}
        if tokenizer == "bpe":
            settings["tokenizer"] = BPETokenizer(vocab_size=270)
        return tiny_data(*texts, **settings)

    message = refusal(data())
    assert message.startswith("the val split has ")
    context_length = int(re.search(r"model\.context_length=(\d+)", message)[1])
    train_ratio = float(re.search(r"data\.train_ratio=([\d.]+)", message)[1])
    for way_out in ({"context_length": context_length}, {"train_ratio": train_ratio}):
        data(**way_out).setup()
    refusal(data(context_length=context_length + 1))


def test_half_of_what_training_leaves_is_the_test_split_and_every_way_out_works(tiny_data):
    data = tiny_data("a" * 1000, train_ratio=0.9, test_ratio=None)
    data.setup()
    assert {name: len(ids) for name, ids in data.ids.items()} == {
        "train": 900,
        "val": 50,
        "test": 50,
    }
    for length, wanted in ((300, ["data.test_ratio=0"]), (50, ["train_ratio", "test_ratio=0"])):
        settings = {"context_length": 20, "batch_size": 1}
        message = refusal(tiny_data(PROSE[:length], test_ratio=None, **settings))
        assert message.startswith("the val split has ")
        assert all(words in message for words in wanted)
        for way in re.findall(r"data\.\w+=[\d.]+(?: with data\.\w+=\d)?", message):
            changes = dict(re.findall(r"data\.(\w+)=([\d.]+)", way))
            numbers = {"test_ratio": None} | {key: float(text) for key, text in changes.items()}
            tiny_data(PROSE[:length], **settings, **numbers).setup()


def test_the_ratio_that_is_offered_counts_special_tokens_as_one(tiny_data):
    text = PROSE[:100] + "<|endoftext|>fog " * 6
    settings = {"context_length": 20, "special_tokens": True, "batch_size": 1}
    train_ratio = float(
        re.search(r"data\.train_ratio=([\d.]+)", refusal(tiny_data(text, **settings)))[1]
    )
    tiny_data(text, **settings, train_ratio=train_ratio).setup()


@pytest.mark.parametrize(
    "settings",
    [
        {"train_ratio": 0.8, "context_length": 90},
        {"train_ratio": 0.7, "test_ratio": 0.1, "context_length": 25},
    ],
    ids=["training and validation", "validation and test"],
)
def test_where_several_splits_are_too_short_only_what_helps_all_of_them_is_offered(
    tiny_data, settings
):
    message = refusal(tiny_data("a" * 100, **settings, batch_size=1))
    context_length = int(re.search(r"model\.context_length=(\d+)", message)[1])
    tiny_data("a" * 100, **(settings | {"context_length": context_length}), batch_size=1).setup()
    assert "train_ratio" not in message


def test_a_batch_larger_than_the_text_is_refused_with_the_largest_that_works(tiny_data):
    message = refusal(tiny_data(batch_size=1000))
    largest = int(re.search(r"batch_size \(1000\) must be at most (\d+)", message)[1])
    data = tiny_data(batch_size=largest)
    data.setup()
    assert data.batches_per_epoch == 1
    refusal(tiny_data(batch_size=largest + 1))
    tiny_data(batch_size=1000, drop_last=False).setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_ratio": 0.8, "test_ratio": 0.2},
            r"train_ratio \(0\.8\) \+ test_ratio \(0\.2\) must be less than 1",
        ),
        ({"stride": 9}, r"stride \(9\) must be at most context_length \(8\)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_is_read(changes, message):
    with pytest.raises(ValueError, match=message):
        TextData(
            path="nowhere.txt", tokenizer=None, order=None, **({"context_length": 8} | changes)
        )


def scored(data, split, limit=None):
    """The targets of an evaluation, and the shapes of its batches."""
    batches = [targets for _, targets in data.eval_batches_of(split, limit)]
    return torch.cat([targets.flatten() for targets in batches]).tolist(), [
        tuple(t.shape) for t in batches
    ]


@pytest.mark.parametrize("stride", [8, 3])
def test_an_evaluation_of_a_whole_split_scores_every_token_once(tiny_data, stride):
    data = tiny_data(
        "The lamp went out. " * 12,
        eval_last_window=True,
        stride=stride,
        train_ratio=0.7,
        test_ratio=0.1,
    )
    data.setup()
    for split, ids in data.ids.items():
        targets, shapes = scored(data, split)
        assert targets == ids[1:].tolist() and len(targets) == data.n_scored(split) == len(ids) - 1
        assert shapes[-1] == (1, (len(ids) - 1) % 8) and {shape[1] for shape in shapes[:-1]} == {8}
        assert len(data.eval_batches_of(split)) == len(shapes)


def test_without_the_key_or_with_a_limit_the_windows_are_those_they_were(tiny_data):
    text = "The lamp went out, and the harbour was dark. " * 12
    old, new = tiny_data(text, stride=3), tiny_data(text, stride=3, eval_last_window=True)
    for data in (old, new):
        data.setup()
    for split in ("train", "val"):
        n_windows = len(old.windows[split])
        assert scored(old, split)[0] == windows_of(old, split)[1].flatten().tolist()
        assert old.n_scored(split) == n_windows * 8
        for limit in (1, 2, 10**6):
            assert scored(old, split, lambda limit=limit: limit) == scored(
                new, split, lambda limit=limit: limit
            )
            assert new.n_scored(split, limit) == min(n_windows, 2 * limit) * 8
    # Of training no more batches are read than of validation, last window or not.
    read = [len(list(data.evaluations(is_untrained=lambda: False)[0])) for data in (old, new)]
    assert read == [old.n_eval_batches(old.windows["val"])] * 2


def test_a_split_that_ends_with_a_window_has_no_last_one(tiny_data):
    data = tiny_data("a" * 17 + "b" * 9, train_ratio=17 / 26, eval_last_window=True)
    data.setup()
    assert scored(data, "val")[1] == [(1, 8)] and scored(data, "train")[1] == [(2, 8)]


def test_the_summary_says_what_of_validation_is_not_evaluated(tiny_data):
    def summary(**changes):
        data = tiny_data(**changes)
        data.setup()
        return data.summary()

    assert "not evaluated" not in summary(eval_last_window=True)
    assert "6 windows of 8, 5 of 53 predictions are not evaluated" in summary()
    assert "6 windows of 8, 37 of 53 predictions are not evaluated" in summary(
        eval_last_window=True, eval_batches=1
    )


def test_two_processes_score_the_last_window_once(tiny_data):
    def shapes(rank):
        data = tiny_data(eval_last_window=True, batch_size=4)
        data.setup()
        return [tuple(targets.shape) for _, targets in data.eval_batches_of("val", share=(rank, 2))]

    assert shapes(0) == [(2, 8), (1, 8), (1, 5)] and shapes(1) == [(2, 8), (1, 8), (0, 8)]


def test_an_order_without_a_position_is_not_gathered_ahead(tiny_data):
    with pytest.raises(ValueError, match=r"num_workers \(2\) must be 0 with this order"):
        tiny_data(order=BookOrder(), num_workers=2)
