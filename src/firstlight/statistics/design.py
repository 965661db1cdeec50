"""What each config adds to the loss, and how its seeds tell how sure that is.

A run has a config and a seed. Configs that were run with the same seeds are compared with the seeds
as blocks: a seed that is lucky for one is often lucky for all (the same order of the text, the same
initial weights), and that cancels. Otherwise each seed is a draw of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics.text import Floats

ROUNDING = 1e-9
"""What is below it is 0 but for rounding."""
MOST_LOST = 1.5
"""Blocks are used unless the variance of some difference is more than so many times what it is
without them, as where two configs share one of three seeds, and only that one would count."""


@dataclass(frozen=True)
class Design:
    """How effects are computed from runs: `effects = to_effects @ losses`, for any losses of runs.

    `to_effects` is (configs, runs), `to_residuals` (runs, runs), `config_of` (runs,).
    """

    to_effects: Floats
    to_residuals: Floats
    config_of: NDArray[np.intp]
    degrees: int
    """Degrees of freedom of the residuals; 0 if every config has one seed."""
    has_blocks: bool

    @cached_property
    def factors(self) -> Floats:
        """The variance of the difference of any two effects, if a run's error has variance 1."""
        covariances = self.to_effects @ self.to_effects.T
        variances = np.diag(covariances)
        return variances[:, None] + variances - 2 * covariances


def design(seeds: Sequence[Sequence[int]]) -> Design:
    """The design of configs that were run with these seeds."""
    config_of = np.repeat(np.arange(len(seeds)), [len(of_one) for of_one in seeds])
    configs = np.eye(len(seeds))[config_of]  # (runs, configs): 1 where a run has the config
    plain = _design(configs, config_of, len(seeds), has_blocks=False)
    seed_of = np.concatenate([np.asarray(of_one) for of_one in seeds])
    distinct = np.unique(seed_of)
    blocks = (seed_of[:, None] == distinct).astype(float)  # (runs, seeds)
    both = np.concatenate([configs, blocks], axis=1)
    # Each seed that two configs share connects them. Only if all are connected can every difference
    # be computed within seeds: then one column in all of them follows from the others.
    is_connected = np.linalg.matrix_rank(both) == len(seeds) + len(distinct) - 1
    if not is_connected:
        return plain
    blocked = _design(both, config_of, len(seeds), has_blocks=True)
    if blocked.degrees < 1:
        return plain
    is_wasteful = bool((blocked.factors > MOST_LOST * plain.factors + ROUNDING).any())
    return plain if is_wasteful else blocked


def _design(
    columns: Floats, config_of: NDArray[np.intp], n_configs: int, *, has_blocks: bool
) -> Design:
    inverse = np.linalg.pinv(columns).astype(np.float64)  # least squares
    runs = len(columns)
    return Design(
        to_effects=inverse[:n_configs],
        to_residuals=np.eye(runs) - columns @ inverse,
        config_of=config_of,
        degrees=runs - int(np.linalg.matrix_rank(columns)),
        has_blocks=has_blocks,
    )
