"""An estimate from a sample: mean, standard deviation, and two 95% intervals of the mean.

The t interval is exact where the numbers are normal; p-values and power go with it. The bootstrap interval
(bias-corrected and accelerated, BCa) shows skew: it need not be symmetric. Of few numbers it is too short, as every
bootstrap interval is: of ten normal ones it holds the mean in 91% of cases.

Source: Efron, "Better bootstrap confidence intervals", JASA 1987.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lm_core.rng import generator
from lm_core.t_distribution import quantile

Array = NDArray[np.float64]
Interval = tuple[float, float]
LEVEL = 0.95
"""Confidence of every interval."""
_RESAMPLES = 9_999
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """Mean of a sample, and how far to trust it."""

    n: int
    mean: float
    deviation: float | None
    """Sample standard deviation; None of one number, which has no interval either."""
    interval: Interval | None
    """95%, by Student's t."""
    bootstrap: Interval | None
    """95%, BCa; None of fewer than three."""

    @classmethod
    def of(cls, sample: Sequence[float]) -> Self:
        """Estimate the mean that one or more finite numbers were drawn around."""
        values = np.asarray(sample, np.float64)
        n, mean = len(values), float(values.mean())
        if n == 1:
            return cls(n, mean, None, None, None)
        deviation = float(values.std(ddof=1))
        half = quantile((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n)
        bootstrap = bca_interval(values, resampled_means(values)) if n > 2 else None
        return cls(n, mean, deviation, (mean - half, mean + half), bootstrap)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.interval is None else f"{self.mean:.4f} {written(self.interval)}"


def written(interval: Interval | None) -> str:
    """An interval for people; "-" where there is none."""
    return "-" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def resampled_means(values: Array) -> Array:
    """Means of resamples with replacement; the same values give the same ones."""
    means: Array = _shares(len(values)) @ values
    return means


@lru_cache(maxsize=8)
def _shares(n: int) -> Array:
    """Share of each of `n` numbers in each resample, [resamples, n]."""
    return generator(0, "bootstrap", n).multinomial(n, np.full(n, 1 / n), _RESAMPLES) / n


def bca_interval(values: Array, means: Array) -> Interval:
    """The BCa interval of the mean of `values`, from `means` of resamples of them."""
    mean, n = values.mean(), len(values)
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    if np.ptp(values) == 0:
        return float(mean), float(mean)
    share = float((np.count_nonzero(means < mean) + np.count_nonzero(means <= mean)) / (2 * len(means)))
    bias = _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
    apart = (values - mean) / (n - 1)  # those of the jackknife
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))

    def moved(level: float) -> float:
        z = bias + _NORMAL.inv_cdf(level)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z))

    ends = np.quantile(means, [moved(low), moved(high)])
    return float(ends[0]), float(ends[1])
