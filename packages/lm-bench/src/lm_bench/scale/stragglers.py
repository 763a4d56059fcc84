"""What it costs that a step waits for the slowest rank: the expected largest of N times, by formula and simulated.

Times are in standard deviations above the mean of a rank's.
"""

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np

STEPS = 4000
"""Steps that are simulated."""


def largest_normal(ranks: int) -> float:
    """The expected largest of so many standard normal numbers: the integral of 1 - F^N above 0 less F^N below it."""
    x = np.linspace(0, 9, 9001)
    below = np.array([0.5 * (1 + erf(value / sqrt(2))) for value in x])
    return float(np.trapezoid(1 - below**ranks - (1 - below) ** ranks, x))


def largest_exponential(ranks: int) -> float:
    """The same of exponential numbers of mean 1, less that mean: 1/2 + 1/3 + ... + 1/N."""
    return float(np.sum(1 / np.arange(2, ranks + 1)))


@dataclass(frozen=True)
class Largest:
    """A simulated mean, and its standard error."""

    mean: float
    error: float


def simulated(kind: str, ranks: int, seed: int) -> Largest:
    """The same two by drawing: "normal" or "exponential"."""
    draw = np.random.default_rng([seed, ranks])
    shape = (STEPS, ranks)
    times = draw.standard_normal(shape) if kind == "normal" else draw.standard_exponential(shape) - 1
    largest = times.max(1)
    return Largest(float(largest.mean()), float(largest.std(ddof=1) / sqrt(STEPS)))
