"""The curve of a range test, smoothed, and the rates that rules read off it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTH = 0.04
"""Standard deviation of the smoothing's weights, as a share of the test's steps."""
TENTH = 10.0
"""How far below the rate with the lowest loss the second rule stays."""
LEAST_FALL = 3.0
"""Least fall of the smoothed loss, in standard deviations of the losses around it."""
DEVIATIONS = 1.4826
"""The standard deviation of normal numbers, in medians of their distances from the mean."""
LEAST_POINTS = 10


@dataclass(frozen=True)
class Curve:
    """The losses of a range test by learning rate, and what is read off them."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    """The rate at which the smoothed loss falls fastest; None if it does not fall."""
    tenth_of_lowest: float | None
    """A tenth of the rate at which the smoothed loss is lowest; None if it does not fall."""
    why_none: str
    """Why nothing is suggested; "" if something is."""


def curve_of(rates: list[float], losses: list[float], *, has_diverged: bool) -> Curve:
    """Smooth the losses, and find the rates."""
    if len(losses) < LEAST_POINTS:
        short = f"the loss diverged after {len(losses)} steps: lower lr_find.lowest"
        return Curve(rates, losses, losses, None, None, short)
    smoothed, slopes = _smoothed(np.log(rates), np.array(losses))
    # By the median, and scaled as for a normal distribution: a last loss that is far above all
    # others says nothing about the noise before it.
    noise = DEVIATIONS * float(np.median(np.abs(np.array(losses) - smoothed)))
    lowest = int(smoothed.argmin())
    fall = float(smoothed[: lowest + 1].max() - smoothed[lowest])
    found = rates, losses, smoothed.tolist()
    if lowest == 0 or fall < LEAST_FALL * noise:
        return Curve(*found, None, None, "the loss does not fall clearly: raise lr_find.steps")
    if lowest == len(losses) - 1 and not has_diverged:
        return Curve(*found, None, None, "the loss is still falling: raise lr_find.highest")
    steepest = int(slopes[: lowest + 1].argmin())
    return Curve(*found, rates[steepest], rates[lowest] / TENTH, "")


def _smoothed(x: Array, y: Array) -> tuple[Array, Array]:
    """A line through the neighbours of each point: its value there, and its slope.

    Local linear regression with Gaussian weights (Cleveland 1979 has others). Unlike a running
    mean it does not lag behind, which would move every suggestion to higher rates. The first and
    the last points have neighbours on one side alone.
    """
    width = WIDTH * (x[-1] - x[0])
    away = x[None, :] - x[:, None]  # (N, N): of each point (column) from each centre (row)
    weights = np.exp(-0.5 * (away / width) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centre, mean = (weights * away).sum(axis=1), weights @ y  # (N,)
    spread = (weights * (away - centre[:, None]) ** 2).sum(axis=1)
    slopes = (weights * (away - centre[:, None]) * (y[None, :] - mean[:, None])).sum(
        axis=1
    ) / spread
    return mean - slopes * centre, slopes
