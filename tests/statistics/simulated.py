"""Losses of configs whose true means are known, and how often a comparison of them is wrong."""

from dataclasses import dataclass

import numpy as np

from firstlight.statistics import compare, mean_of_chosen, mean_over_text


@dataclass(frozen=True)
class World:
    """How losses come about; the standard deviations are in nats."""

    configs: int = 2
    seeds: int = 3
    windows: int = 34
    neighbours: float = 0.6  # correlation of neighbouring windows
    shared: float = 0.0  # correlation of two configs' losses over the seeds
    of_seed: float = 0.03
    of_text: float = 0.02  # of a config and a window
    of_both: float = 0.02  # of a config, a seed and a window
    gap: float = 0.0  # by how much all but the first config are worse
    fewer: tuple[int, ...] = ()  # numbers of seeds, in turn; empty: `seeds` of each
    same_seeds: bool = True
    wild: float = 1.0  # how many times as much the last config varies over the seeds

    def losses(self, generator):
        """The losses of each config, (seeds, windows), and its seeds."""
        shape = (self.configs, self.seeds)
        hard = self.series(generator, 0.3, ())
        luck = generator.normal(size=self.seeds)
        own = generator.normal(size=shape)
        of_seed = self.of_seed * (self.shared**0.5 * luck + (1 - self.shared) ** 0.5 * own)
        of_seed[-1] *= self.wild
        of_text = self.series(generator, self.of_text, (self.configs, 1))
        of_both = self.series(generator, self.of_both, shape)
        losses = 3 + hard + of_text + of_both + of_seed[..., None]
        losses[1:] += self.gap
        found, seeds = {}, {}
        for number, values in enumerate(losses):
            n = self.fewer[number % len(self.fewer)] if self.fewer else self.seeds
            found[str(number)] = values[:n]
            first = 0 if self.same_seeds else 100 * number
            seeds[str(number)] = list(range(first, first + n))
        return found, seeds

    def series(self, generator, deviation, shape):
        """Series with `deviation` and a correlation of neighbours: (*shape, windows)."""
        series = generator.normal(size=(*shape, self.windows))
        fresh = (1 - self.neighbours**2) ** 0.5
        for place in range(1, self.windows):
            before = self.neighbours * series[..., place - 1]
            series[..., place] = before + fresh * series[..., place]
        return deviation * series


@dataclass(frozen=True)
class Outcome:
    """Shares of the draws."""

    family_error: float  # some interval does not hold the truth
    coverage: float  # the interval of the first two configs holds it
    power: float  # of the pairs with the first config that are told apart
    best_is_named: float  # the first config is among those that could be the best


def outcome(world, draws, seed=0):
    generator = np.random.default_rng(seed)
    tokens = np.full(world.windows, 64)
    errors = covered = named = 0
    told = []
    for _ in range(draws):
        losses, seeds = world.losses(generator)
        found = compare(losses, tokens, seeds)
        truth = {str(number): world.gap * (number > 0) for number in range(world.configs)}
        holds = []
        for pair in found.pairs:
            holds.append(pair.low <= truth[pair.a] - truth[pair.b] <= pair.high)
            if pair.a == "0":
                told.append(pair.told_apart)
        errors += not all(holds)
        covered += holds[0]
        named += "0" in found.could_be_best
    return Outcome(errors / draws, covered / draws, float(np.mean(told)), named / draws)


def choice(world, draws, seed=0, like_test=1.0):
    """How often the interval of the config that was chosen holds its mean: corrected, and not.

    `like_test` is the correlation of what a seed does to the losses that were chosen by and to
    those of the interval; 1: they are the same.
    """
    generator = np.random.default_rng(seed)
    shape = (world.configs, world.seeds)
    truth = world.gap * np.arange(world.configs) / max(world.configs - 1, 1)
    deviation = np.full((world.configs, 1), world.of_seed)
    deviation[-1] *= world.wild
    covered = covered_by_t = 0
    for _ in range(draws):
        luck = generator.normal(size=world.seeds)
        own = generator.normal(size=shape)
        of_seed = world.shared**0.5 * luck + (1 - world.shared) ** 0.5 * own
        chosen = int((truth[:, None] + deviation * of_seed).mean(axis=1).argmin())
        fresh = (1 - like_test**2) ** 0.5 * generator.normal(size=shape)
        losses = truth[:, None] + deviation * (like_test * of_seed + fresh)
        by_name = {str(number): values.tolist() for number, values in enumerate(losses)}
        found = mean_of_chosen(by_name, str(chosen))
        covered += found.low <= truth[chosen] <= found.high
        alone = mean_of_chosen({"": losses[chosen].tolist()}, "")
        covered_by_t += alone.low <= truth[chosen] <= alone.high
    return covered / draws, covered_by_t / draws


def text_coverage(windows, neighbours, draws, seed=0):
    """How often the interval of a mean over text holds the mean of all such text."""
    generator = np.random.default_rng(seed)
    world = World(windows=windows, neighbours=neighbours)
    covered = 0
    for _ in range(draws):
        found = mean_over_text(world.series(generator, 1.0, ()), np.ones(windows))
        covered += found.low <= 0 <= found.high
    return covered / draws
