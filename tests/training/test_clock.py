"""The clock of a run: its length, and what is due after which step."""

from itertools import islice

import pytest

from firstlight.training.clock import Clock

EVERY = {"log_every_n_steps": 10, "eval_every_n_steps": 4, "eval_first_step": None}


def clock_of(data, *, batches_per_step=1, max_steps=None, max_epochs=None, max_tokens=None, **due):
    data.setup()
    lengths = {"max_steps": max_steps, "max_epochs": max_epochs, "max_tokens": max_tokens}
    return Clock.of(data, batches_per_step=batches_per_step, **lengths, **(EVERY | due))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batches_per_step", [1, 2, 3])
def test_windows_and_tokens_are_known_from_the_number_of_a_step(
    tiny_data, drop_last, batches_per_step
):
    data = tiny_data("a" * 100 + "v" * 20, train_ratio=100 / 120, drop_last=drop_last, batch_size=5)
    clock = clock_of(data, batches_per_step=batches_per_step, max_steps=8)
    sizes = {"batch_size": 5, "shuffle": True, "drop_last": drop_last, "start": 0}
    batches = data.order.train_batches(len(data.windows["train"]), **sizes)
    tokens = 0
    for step in range(1, 9):
        n_windows = sum(len(batch) for batch in islice(batches, batches_per_step))
        tokens += n_windows * data.context_length
        assert clock.windows_of(step) == n_windows
        assert clock.tokens_after(step) == tokens


@pytest.mark.parametrize(
    ("due", "evaluated"),
    [
        ({}, [4, 8, 10]),
        ({"eval_first_step": 1}, [1, 5, 9, 10]),
        ({"eval_every_n_steps": 100}, [10]),
        ({"eval_first_step": 7, "eval_every_n_steps": 2}, [7, 9, 10]),
    ],
    ids=str,
)
def test_evaluations_come_when_they_are_due_and_after_the_last_step(tiny_data, due, evaluated):
    clock = clock_of(tiny_data(), max_steps=10, **due)
    assert [step for step in range(1, 11) if clock.is_eval_step(step)] == evaluated


@pytest.mark.parametrize("max_steps", [1, 3, 4, 5, 8, 9, 30])
@pytest.mark.parametrize(("first", "every"), [(None, 4), (1, 4), (3, 2), (50, 1), (None, 100)])
def test_evaluations_are_counted_without_going_through_the_steps(
    tiny_data, max_steps, first, every
):
    clock = clock_of(
        tiny_data(), max_steps=max_steps, eval_first_step=first, eval_every_n_steps=every
    )
    assert clock.n_evaluations == sum(map(clock.is_eval_step, range(1, max_steps + 1)))


def test_every_evaluation_gets_a_row_in_the_logs(tiny_data):
    clock = clock_of(tiny_data(), max_steps=10, log_every_n_steps=3)
    assert [step for step in range(1, 11) if clock.is_log_step(step)] == [3, 4, 6, 8, 9, 10]


def test_a_clock_cannot_be_set(tiny_data):
    clock = clock_of(tiny_data(), max_steps=10)
    with pytest.raises(AttributeError):
        clock.max_steps = 11
