"""Is a metric one that can be added up over batches?"""

import math
from collections.abc import Collection
from typing import get_args

import torch

from firstlight.metrics.base import Direction, Metric, Scored
from firstlight.testing.properties import Broken, Property, check_all

N_TOKENS, WINDOW, VOCAB_SIZE = 24, 8, 13


def check_metric(metric: Metric, *, skip: Collection[str] = ()) -> dict[str, str]:
    """Check that `metric` keeps the contract of `Metric`; returns what became of each property.

    Raises:
        AssertionError: a property does not hold.
    """
    case = _Case(metric)
    properties = [
        Property(
            "description",
            case.description,
            "Set name (one word), direction ('min' or 'max') and text as attributes of the class.",
        ),
        Property("number of sums", case.number, "Let n_sums be the length of what sums returns."),
        Property(
            "additive",
            case.additive,
            "Batches and processes are added up: return sums over tokens, and divide in value.",
        ),
        Property("value", case.value, "Return a float, or None where there is nothing to measure."),
        Property("determinism", case.determinism, "A metric draws nothing, and keeps nothing."),
    ]
    return check_all(type(metric).__name__, properties, skip)


class _Case:
    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        generator = torch.Generator().manual_seed(0)
        losses = 4 * torch.rand(N_TOKENS, generator=generator, dtype=torch.float64)
        targets = torch.randint(VOCAB_SIZE, (N_TOKENS,), generator=generator)
        guesses = torch.randint(VOCAB_SIZE, (N_TOKENS,), generator=generator)
        predictions = torch.where(losses < 1, targets, guesses)
        n_bytes = torch.randint(1, 6, (N_TOKENS,), generator=generator)
        # 1 where the prediction is right; any other place elsewhere.
        others = torch.randint(2, VOCAB_SIZE + 1, (N_TOKENS,), generator=generator)
        ranks = torch.where(predictions == targets, 1, others)
        self.scored = Scored(
            losses,
            targets,
            n_bytes,
            WINDOW,
            predict=lambda: predictions,
            rank=lambda: ranks,
        )

    def description(self) -> None:
        for name in ("name", "direction", "text"):
            if not isinstance(getattr(self.metric, name, None), str):
                raise Broken(f"it has no {name}")
        if not self.metric.name.isidentifier():
            raise Broken(f"its name is {self.metric.name!r}")
        if self.metric.direction not in get_args(Direction):
            raise Broken(f"its direction is {self.metric.direction!r}")

    def number(self) -> None:
        n_sums = len(self.metric.sums(self.scored))
        if n_sums != self.metric.n_sums:
            raise Broken(f"sums returns {n_sums} numbers, n_sums is {self.metric.n_sums}")

    def additive(self) -> None:
        whole = self.metric.sums(self.scored)
        # Batches are of any size, and processes share them: only sums that add up are the same for
        # all.
        parts = [self.metric.sums(part) for part in self.scored.windows()]
        for number, (total, column) in enumerate(zip(whole, zip(*parts, strict=True), strict=True)):
            if not math.isclose(total, sum(column), rel_tol=1e-9, abs_tol=1e-9):
                raise Broken(
                    f"sum {number} is {total:.6g} over {N_TOKENS} tokens, and {sum(column):.6g}"
                    " over the same tokens in parts"
                )

    def value(self) -> None:
        value = self.metric.value(self.metric.sums(self.scored))
        if value is not None and not (isinstance(value, float) and math.isfinite(value)):
            raise Broken(f"it is {value!r} for {N_TOKENS} usual tokens")
        self.metric.value([0.0] * self.metric.n_sums)  # of no token

    def determinism(self) -> None:
        state = torch.get_rng_state()
        first, second = (self.metric.sums(self.scored) for _ in range(2))
        if first != second:
            raise Broken(f"called twice, sums returns {first} and {second}")
        if not torch.equal(torch.get_rng_state(), state):
            raise Broken("it draws random numbers")
