import math

import pytest

from firstlight.optim.base import Schedule, phases_of, steps_of
from firstlight.optim.constant import Constant
from firstlight.optim.warmup import Warmup
from firstlight.optim.warmup_cosine import WarmupCosine
from firstlight.optim.warmup_stable_decay import WarmupStableDecay

APPENDIX_D = WarmupCosine(warmup_steps=27, initial_lr=1e-5, min_lr=1e-5)


def test_every_step_of_appendix_d_has_the_learning_rate_of_the_books_loop():
    lr_increment = (1e-3 - 1e-5) / 27
    for step in range(135):
        if step < 27:
            expected = 1e-5 + step * lr_increment
        else:
            progress = (step - 27) / (135 - 27)
            expected = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * progress))
        assert APPENDIX_D.lr(step, max_steps=135, peak=1e-3) == pytest.approx(expected, rel=1e-12)


def test_the_rate_rises_to_the_peak_then_falls_to_the_minimum():
    rates = [APPENDIX_D.lr(step, max_steps=135, peak=1e-3) for step in range(136)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[27] == max(rates) == pytest.approx(1e-3)
    assert rates[81] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[135] == min(rates) == pytest.approx(1e-5)
    assert rates[:28] == sorted(rates[:28])
    assert rates[27:] == sorted(rates[27:], reverse=True)


def test_a_step_beyond_the_run_keeps_the_minimum():
    assert APPENDIX_D.lr(500, max_steps=135, peak=1e-3) == pytest.approx(1e-5)


def test_without_warmup_the_first_step_has_the_peak():
    assert WarmupCosine(warmup_steps=0).lr(0, max_steps=10, peak=3e-4) == 3e-4


def test_a_constant_schedule_stays_at_the_peak():
    assert {Constant().lr(step, max_steps=10, peak=4e-4) for step in range(10)} == {4e-4}


@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_the_rate_rises_stays_at_the_peak_and_decays_in_the_last_part_of_the_run(shape):
    schedule = WarmupStableDecay(
        warmup_steps=10, initial_lr=1e-4, min_lr=2e-4, decay_ratio=0.2, decay_shape=shape
    )
    rates = [schedule.lr(step, max_steps=100, peak=1e-3) for step in range(101)]
    assert rates[:11] == pytest.approx([1e-4 + k * 9e-5 for k in range(11)])
    assert set(rates[10:81]) == {1e-3}
    fallen = [k / 20 if shape == "linear" else math.sqrt(k / 20) for k in range(21)]
    assert rates[80:] == pytest.approx([1e-3 - 8e-4 * part for part in fallen])
    assert rates[100] == pytest.approx(2e-4)
    assert schedule.lr(500, max_steps=100, peak=1e-3) == rates[100]


def test_before_the_decay_the_rates_do_not_depend_on_the_length_of_the_run():
    schedule = WarmupStableDecay(warmup_steps=10, decay_ratio=0.5)
    short, long = (
        [schedule.lr(step, max_steps=n, peak=1e-3) for step in range(50)] for n in (100, 1000)
    )
    assert short == long


@pytest.mark.parametrize(
    ("decay_ratio", "last"), [(0, 1.0), (0.04, 1.0), (0.06, 1.0), (0.1, 1.0), (0.2, 0.5)]
)
def test_a_decay_is_of_whole_steps_and_may_be_none(decay_ratio, last):
    schedule = WarmupStableDecay(warmup_steps=0, decay_ratio=decay_ratio, decay_shape="linear")
    assert [schedule.lr(step, max_steps=10, peak=1.0) for step in range(10)] == [1.0] * 9 + [last]


def test_too_long_a_warmup_is_told_with_the_word_to_add():
    with pytest.raises(
        ValueError, match=r"the run's 20 steps; add scheduler\.warmup_steps=5, or t"
    ):
        WarmupCosine(warmup_steps=20).check(max_steps=20, peak=1e-3)
    with pytest.raises(ValueError, match=r"the run's 1 step; add scheduler\.warmup_steps=0"):
        WarmupCosine(warmup_steps=1).check(max_steps=1, peak=1e-3)


@pytest.mark.parametrize(
    ("part", "max_steps", "steps"),
    [
        (20, 600, 20),
        ("20%", 135, 27),  # the book's
        ("3.4%", 600, 20),  # the default, in the default experiment
        ("3.4%", 20, 0),
        ("29%", 100, 29),  # 0.29 * 100 is 28.999999999999996
        ("99.99%", 1, 0),
        ("0.000001%", 10**12, 10**4),
    ],
)
def test_a_share_of_a_run_is_rounded_down_to_whole_steps(part, max_steps, steps):
    assert steps_of(part, max_steps) == steps


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupStableDecay])
def test_a_warmup_that_is_a_share_is_the_one_with_as_many_steps_and_fits_every_run(kind):
    of_share, of_steps = kind(warmup_steps="10%"), kind(warmup_steps=30)
    for step in range(301):
        rate = of_share.lr(step, max_steps=300, peak=1e-3)
        assert rate == of_steps.lr(step, max_steps=300, peak=1e-3)
    for max_steps in (1, 2, 3, 20):
        of_share.check(max_steps=max_steps, peak=1e-3)
    with pytest.raises(ValueError, match="the run's 20 steps"):
        of_steps.check(max_steps=20, peak=1e-3)


def test_a_schedule_that_knows_steps_alone_says_so():
    class Held(Warmup):
        def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
            return peak if step >= self.warmup_steps else 0.0

    assert Held(warmup_steps=2).lr(2, max_steps=10, peak=1.0) == 1.0
    with pytest.raises(ValueError, match=r"warmup_steps \(20%\): Held .* self\.warmup_of\("):
        Held(warmup_steps="20%").lr(2, max_steps=10, peak=1.0)


def test_the_whole_run_may_be_a_decay():
    schedule = WarmupStableDecay(warmup_steps=0, decay_ratio=1, decay_shape="linear")
    schedule.check(max_steps=10, peak=1.0)
    assert [schedule.lr(step, max_steps=10, peak=1.0) for step in range(11)] == pytest.approx(
        [1 - k / 10 for k in range(11)]
    )


def test_a_warmup_and_a_decay_may_fill_the_run_and_not_more():
    WarmupStableDecay(warmup_steps=80, decay_ratio=0.2).check(max_steps=100, peak=1e-3)
    with pytest.raises(
        ValueError,
        match=(
            r"warmup_steps \(81\) and the 20 steps of decay_ratio \(0\.2\) must be at most"
            r" the run's 100 "
            r"steps; lower scheduler\.warmup_steps or scheduler\.decay_ratio, or train longer"
        ),
    ):
        WarmupStableDecay(warmup_steps=81, decay_ratio=0.2).check(max_steps=100, peak=1e-3)


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupStableDecay])
@pytest.mark.parametrize("warmup_steps", [100, 101])
def test_a_warmup_as_long_as_the_run_is_refused(kind, warmup_steps):
    schedule = kind(warmup_steps=warmup_steps)
    with pytest.raises(
        ValueError, match=rf"warmup_steps \({warmup_steps}\) must be less than the run's 100 steps"
    ):
        schedule.check(max_steps=100, peak=1e-3)


@pytest.mark.parametrize("kind", [WarmupCosine, WarmupStableDecay])
@pytest.mark.parametrize("name", ["initial_lr", "min_lr"])
def test_a_rate_above_the_peak_is_refused(kind, name):
    schedule = kind(warmup_steps=1, **{name: 2e-3})
    with pytest.raises(
        ValueError, match=rf"{name} \(0\.002\) must be at most the peak, optimizer\.lr \(0\.001\)"
    ):
        schedule.check(max_steps=100, peak=1e-3)


def test_a_run_that_the_schedule_can_serve_is_accepted():
    WarmupCosine(warmup_steps=99, initial_lr=1e-3, min_lr=1e-3).check(max_steps=100, peak=1e-3)
    Constant().check(max_steps=1, peak=1e-3)


class Steps(Schedule):
    """The rates that it is given, and the last of them from then on."""

    def __init__(self, *rates):
        self.rates = rates

    def lr(self, step, *, max_steps, peak):
        return peak * self.rates[min(step, len(self.rates) - 1)]


@pytest.mark.parametrize(
    ("schedule", "max_steps", "phases"),
    [
        (Constant(), 100, (0, 0)),
        (Constant(), 1, (0, 0)),
        (WarmupCosine(warmup_steps=10), 100, (10, 89)),
        (WarmupStableDecay(warmup_steps=10, decay_ratio=0.2), 100, (10, 19)),
        (Steps(0.1, 0.5, 1.0, 0.2, 1.0, 0.3), 6, (2, 1)),
        (WarmupCosine(warmup_steps=12_345), 1_000_000, (12_345, 987_654)),
        (WarmupStableDecay(warmup_steps=12_345, decay_ratio=0.1), 1_234_567, (12_345, 123_456)),
    ],
)
def test_warmup_and_decay_are_found_from_the_rates(schedule, max_steps, phases):
    assert phases_of(schedule, max_steps=max_steps, peak=1e-3) == phases
