"""The section `sweep` as it is when nothing of it is given."""

from firstlight.sweep.settings import Settings

NO_SETTINGS = Settings(
    params={},
    only_if=[],
    sampler=None,
    trials=1,
    pruner=None,
    prune_after_steps=0,
    objectives=["val/loss"],
    seed=0,
    timeout=None,
    storage=None,
)
