"""What verifying makes of a run."""

import pytest

from firstlight.optim.warmup_stable_decay import WarmupStableDecay
from firstlight.verify.settings import VerifySettings, verify_changes

COSINE = {"_target_": "firstlight.optim.warmup_cosine.WarmupCosine"}
STABLE = {"_target_": "firstlight.optim.warmup_stable_decay.WarmupStableDecay"}


def shortened(scheduler, steps=20):
    settings = VerifySettings(
        checks=["kills"], steps=steps, eval_every_n_steps=5, save_every_n_steps=2, kills=1, seed=0, tolerance=1e-5,
        keep=False,
    )  # fmt: skip
    return verify_changes({"scheduler": scheduler}, settings)["scheduler"]


@pytest.mark.parametrize(
    ("scheduler", "change"),
    [
        ({"_target_": "firstlight.optim.constant.Constant"}, {}),
        (COSINE | {"warmup_steps": 19}, {}),
        (COSINE | {"warmup_steps": 20}, {"warmup_steps": 5}),
        (COSINE | {"warmup_steps": 10**6, "min_lr": 1e9}, {"warmup_steps": 5}),
        (STABLE | {"warmup_steps": 16}, {}),
        (STABLE | {"warmup_steps": 17}, {"warmup_steps": 5}),
        (STABLE | {"warmup_steps": 20, "decay_ratio": 0}, {"warmup_steps": 5}),
        (STABLE | {"warmup_steps": 100, "decay_ratio": 0.75}, {"warmup_steps": 5}),
        (STABLE | {"warmup_steps": 100, "decay_ratio": 0.9}, {"warmup_steps": 0}),
    ],
    ids=str,
)
def test_a_warmup_is_as_it_was_or_fits_into_the_short_run(scheduler, change):
    assert shortened(scheduler) == change


@pytest.mark.parametrize("steps", [2, 3, 7, 20])
@pytest.mark.parametrize("decay_ratio", [0, 0.2, 0.5, 0.95, 1])
@pytest.mark.parametrize("warmup_steps", [0, 3, 100])
def test_whatever_a_run_decays_its_short_run_is_one_that_the_schedule_can_serve(
    warmup_steps, decay_ratio, steps
):
    settings = {"warmup_steps": warmup_steps, "decay_ratio": decay_ratio}
    WarmupStableDecay(**settings | shortened(STABLE | settings, steps)).check(
        max_steps=steps, peak=1e-3
    )
