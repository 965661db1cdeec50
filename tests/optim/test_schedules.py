import math

import pytest

from firstlight.optim.constant import Constant
from firstlight.optim.warmup_cosine import WarmupCosine

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


@pytest.mark.parametrize("warmup_steps", [100, 101])
def test_a_warmup_as_long_as_the_run_is_refused(warmup_steps):
    schedule = WarmupCosine(warmup_steps=warmup_steps)
    with pytest.raises(ValueError, match=rf"warmup_steps \({warmup_steps}\) must be less than the run's 100 steps"):
        schedule.check(max_steps=100, peak=1e-3)


@pytest.mark.parametrize("name", ["initial_lr", "min_lr"])
def test_a_rate_above_the_peak_is_refused(name):
    schedule = WarmupCosine(warmup_steps=1, **{name: 2e-3})
    with pytest.raises(ValueError, match=rf"{name} \(0\.002\) must not be above the peak, optimizer\.lr \(0\.001\)"):
        schedule.check(max_steps=100, peak=1e-3)


def test_a_run_that_the_schedule_can_serve_is_accepted():
    WarmupCosine(warmup_steps=99, initial_lr=1e-3, min_lr=1e-3).check(max_steps=100, peak=1e-3)
    Constant().check(max_steps=1, peak=1e-3)
