"""Paired differences: two arms on the same seeds, that is the same initial weights and the same batches.

What the seeds have in common cancels, so fewer of them show the same effect. Two p-values, both two-sided: the paired
t test, which goes with the interval, and the sign flips, which need no normal distribution: without an effect each
difference could as well have had the other sign. With n pairs the latter cannot fall below 2^(1-n).

Sources: Fisher, "The Design of Experiments" (1935), for the flips; Holm, "A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 1979.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_bench.study.estimate import Estimate
from lm_core.t_distribution import tail

Array = NDArray[np.float64]
MOST_FLIPPED = 40
"""Pairs of which all 2^n flips are counted."""


@dataclass(frozen=True)
class Paired:
    """Differences of one arm from another, pair by pair."""

    difference: Estimate
    effect: float | None
    """Cohen's d_z: mean over standard deviation of the differences; None of one pair, or where all are equal."""
    t_p: float | None
    """Of the paired t test; None of one pair."""
    flips_p: float | None
    """Of the sign flips; None of one pair, or of more than `MOST_FLIPPED`."""


def paired(differences: Sequence[float]) -> Paired:
    """Estimate the mean of one or more differences, and test whether it is 0."""
    estimate = Estimate.of(differences)
    n, mean, deviation = estimate.n, estimate.mean, estimate.deviation
    if deviation is None:
        return Paired(estimate, None, None, None)
    effect = mean / deviation if deviation else None
    t = abs(effect) * math.sqrt(n) if effect is not None else math.inf if mean else 0.0
    flips_p = sign_flip_p(np.asarray(differences, np.float64)) if n <= MOST_FLIPPED else None
    return Paired(estimate, effect, min(1.0, 2 * tail(t, n - 1)), flips_p)


def sign_flip_p(differences: Array) -> float:
    """Share of all 2^n choices of signs whose sum is as far from 0 as that of the differences, or farther.

    The sums of the two halves are made, 2^(n/2) each, and their pairs are counted by bisection.
    """
    half = len(differences) // 2
    left, right = _sums(differences[:half]), np.sort(_sums(differences[half:]))
    bound = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()  # equal sums are equal but for rounding
    far = len(right) - np.searchsorted(right, bound - left) + np.searchsorted(right, -bound - left, "right")
    return min(1.0, float(far.sum() / (len(left) * len(right))))


def _sums(differences: Array) -> Array:
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected by Holm's method: below a level, any is a false alarm with that chance at most."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, np.float64)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return list(map(float, corrected))


def holm_known(p_values: Sequence[float | None]) -> list[float | None]:
    """The same of those that are known; None for the others."""
    known = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(known) for p in p_values]
