"""What the process from which trials are forked does once, so that no trial does it again.

Only what is firstlight's own is imported: a module of the user's may be mended between two trials.
"""

import gc
import importlib
from contextlib import suppress

SERVER = ("firstlight.sweep.server",)
"""What that process imports: it calls `prepare`."""
MODULES = (
    "firstlight.cli",
    "firstlight.verbs",
    "firstlight.commands.train",
    "firstlight.compose.autoresume",
    "firstlight.compose.resumed",
    "firstlight.sweep.pruning",
    "firstlight.training.memory.allocation",
    "matplotlib.backends.backend_agg",
)
"""Modules that trials import late."""
WORDS = ("seed=1", "optimizer.lr=1e-3", "output_dir='a b'", "callbacks=[default]", "resume=null")
"""Overrides of every kind: Hydra's parser is fast with what is like something it has parsed."""


def prepare() -> None:
    """Import what trials import, and compose and check a config as they do.

    Nothing is computed: a process with threads of torch's cannot be forked.
    """
    for module in MODULES:
        importlib.import_module(module)
    from firstlight.commands.train import arguments
    from firstlight.compose.compose import compose_config
    from firstlight.compose.hydra_calls import settings_of_hydra

    # What is wrong here (a package of the user's, say) every trial finds as well, and says so.
    with suppress(Exception):
        composed = compose_config("train", list(WORDS), with_hydra=True)
        with settings_of_hydra(composed, with_logging=False) as config:
            arguments(config)
    # What the trials inherit is never garbage to them, and need not be looked at again.
    gc.collect()
    gc.freeze()
