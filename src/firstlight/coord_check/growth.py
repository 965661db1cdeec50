"""How what layers put out grows with the width of a model."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measured:
    """What one run has shown."""

    parametrization: str
    width: int
    seed: int
    sizes: list[dict[str, float]]
    """By step, the first before any: mean |x| of each kind of layer."""
    moves: list[dict[str, float]]
    """By step: mean |x - what it was before the first step|."""


@dataclass(frozen=True)
class Growth:
    """One quantity of one kind of layer after the last step, by width."""

    parametrization: str
    layer: str
    widths: list[int]
    values: list[float]
    """Means over the seeds."""
    exponent: float
    """The power of the width with which they grow: the slope of a line through their logarithms."""


def growths(runs: list[Measured], quantity: str, step: int) -> list[Growth]:
    """The growth of a `quantity`, sizes or moves, after `step` steps, of each kind of layer."""
    found: list[Growth] = []
    for name in dict.fromkeys(run.parametrization for run in runs):
        of_name = [run for run in runs if run.parametrization == name]
        widths = list(dict.fromkeys(run.width for run in of_name))
        for layer in of_name[0].sizes[0]:
            values = [mean_over_seeds(of_name, width, quantity, step, layer) for width in widths]
            found.append(Growth(name, layer, widths, values, exponent(widths, values)))
    return found


def mean_over_seeds(
    runs: list[Measured], width: int, quantity: str, step: int, layer: str
) -> float:
    """The mean of one number over the runs of a width."""
    values = [getattr(run, quantity)[step][layer] for run in runs if run.width == width]
    return float(np.mean(values))


def exponent(widths: list[int], values: list[float]) -> float:
    """The slope of the least-squares line through the logarithms; nan if a value has none."""
    if not all(0 < value < math.inf for value in values):
        return float("nan")
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])
