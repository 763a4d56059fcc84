"""How often to save, for a time between failures: the formulas, and a simulation of what they are about.

    failure --restart--> segment + save, segment + save, ... --failure--> the segment that was running is lost

Times in seconds: `save` is what a save holds training up, `restart` what passes from a failure to the next step.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BATCHES, FAILURES = 20, 4000
"""Simulations that give the error of their mean, and failures in each."""
_RANGE = 2.0
"""Intervals are tried from the optimum of Young divided by this to the same times it."""


def young(save: float, between: float) -> float:
    """Seconds of training between saves that lose least: sqrt(2 C M) (Young 1974)."""
    return float(np.sqrt(2 * save * between))


def daly(save: float, between: float) -> float:
    """The same to a higher order (Daly 2006, equation 37)."""
    if save >= 2 * between:
        return between
    part = save / (2 * between)
    return young(save, between) * (1 + np.sqrt(part) / 3 + part / 9) - save


def lost(every: float, save: float, restart: float, between: float) -> float:
    """Part of the time that is not training, with exponential times between failures (Daly 2006, equation 20)."""
    return float(1 - every / between * np.exp(-restart / between) / np.expm1((every + save) / between))


@dataclass(frozen=True)
class Optimum:
    """Interval that loses least, as simulated."""

    every: float
    error: float
    """Standard error of it."""
    lost: float
    """Part of the time that is not training at it."""


def simulated(save: float, restart: float, between: float, seed: int) -> Optimum:
    """The optimum from failures at random: where a curve through the losses of intervals around Young's is least."""
    draw = np.random.default_rng(seed)
    around = np.linspace(-np.log(_RANGE), np.log(_RANGE), 15)
    finely = np.linspace(around[0], around[-1], 2001)
    every = young(save, between) * np.exp(around)
    found = []
    for _ in range(BATCHES):
        curve = np.polynomial.Polynomial.fit(around, _losses(every, save, restart, between, draw), 4)
        found.append(young(save, between) * np.exp(finely[curve(finely).argmin()]))
    best = float(np.mean(found))
    final = _losses(np.array([best]), save, restart, between, draw)
    return Optimum(best, float(np.std(found, ddof=1) / np.sqrt(BATCHES)), float(final[0]))


def _losses(
    every: NDArray[np.float64], save: float, restart: float, between: float, draw: np.random.Generator
) -> NDArray[np.float64]:
    """The part of the time that is not training with each interval, all with the same failures."""
    times = draw.exponential(between, FAILURES)
    segments = np.floor(np.maximum(times - restart, 0)[:, None] / (every + save))
    return 1 - segments.sum(0) * every / times.sum()
