"""Ladders whose law is known, and how often what is predicted from them holds."""

from dataclasses import dataclass

import numpy as np

from firstlight.statistics import Rung, fit_ladder

E, A, ALPHA, B, BETA = 1.82, 482.0, 0.348, 2085.0, 0.366  # Besiroglu et al. 2024, equation 2
RATES = (1e-3, 3e-3, 9e-3)


@dataclass(frozen=True)
class World:
    """How losses come about; the deviations are of the logarithm of a loss."""

    budgets: int = 3
    sizes: int = 5
    seeds: int = 3
    spread: float = 4.0  # the smallest and the largest size of a budget are so far from the best
    shift: float = 1.0  # all sizes, times this
    of_seed: float = 0.004
    of_rung: float = 0.0  # what a rung is off the law, for all its seeds
    first: float = 1e17  # FLOPs of the smallest budget; each other has three times as many
    steep: float = 0.02  # how much higher the logarithm is a factor of e away from the best rate

    def loss(self, parameters, tokens):
        return E + A / parameters**ALPHA + B / tokens**BETA

    def best(self, compute):
        """The best size for a budget, where 6 N D = C."""
        ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
        return ratio * (compute / 6) ** (BETA / (ALPHA + BETA))

    @property
    def next_budget(self):
        return self.first * 3**self.budgets

    def rung(self, generator, compute, parameters):
        """A rung, with rates around its best one."""
        tokens = compute / 6 / parameters
        height = np.log(self.loss(parameters, tokens)) + generator.normal(0, self.of_rung)
        from_best = np.log(np.array(RATES) / 3e-3) + generator.uniform(-0.3, 0.3)
        of_rates = (height + self.steep * from_best**2)[:, None]
        noise = generator.normal(0, self.of_seed, (len(RATES), self.seeds))
        return Rung(compute, parameters, tokens, RATES, np.exp(of_rates + noise))

    def rungs(self, generator):
        found = []
        for compute in self.first * 3.0 ** np.arange(self.budgets):
            sizes = np.geomspace(1 / self.spread, self.spread, self.sizes) * self.shift
            for parameters in self.best(compute) * sizes:
                found.append(self.rung(generator, compute, parameters))
        return found


@dataclass(frozen=True)
class Outcome:
    """Shares of the ladders that predict anything, but for the first."""

    predicts: float  # of all
    loss_holds: float  # the loss of the next rung lies in its interval
    size_holds: float  # the best size there lies in its interval
    width: float  # of the interval of the loss, as a share of it (median)


def outcome(world, draws, resamples, seed=0):
    hits, sizes, widths = [], [], []
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        fit = fit_ladder(world.rungs(generator), resamples=resamples, seed=draw)
        if fit.problems:
            continue
        compute = world.next_budget
        size = fit.best_parameters(compute)
        tokens = compute / 6 / size.mean
        loss = fit.predict(size.mean, tokens, world.seeds)
        found = world.rung(generator, compute, size.mean).losses.mean(axis=1).min()
        hits.append(loss.low <= found <= loss.high)
        sizes.append(size.low <= world.best(compute) <= size.high)
        widths.append((loss.high - loss.low) / loss.mean)
    if not hits:
        return Outcome(0.0, 0.0, 0.0, 0.0)
    shares = float(np.mean(hits)), float(np.mean(sizes))
    return Outcome(len(hits) / draws, *shares, float(np.median(widths)))
