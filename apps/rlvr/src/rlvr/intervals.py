"""95% intervals: of a share over problems, and of a mean over seeds."""

from collections.abc import Sequence

import numpy as np

from lm_core.t_distribution import quantile

Interval = tuple[float, float]
_Z = 1.959964


def wilson(share: float, count: int) -> Interval:
    """Wilson's interval of a mean of `count` values from 0 to 1 (Wilson 1927).

    It is that of values which are 0 or 1; for values in between, which vary less, it is wide enough.
    """
    spread = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    low, high = ((share + _Z**2 / (2 * count) + side * spread) / (1 + _Z**2 / count) for side in (-1, 1))
    return max(float(low), 0.0), min(float(high), 1.0)


def student(values: Sequence[float]) -> Interval:
    """Student's interval of the mean over seeds; of one seed alone, everything from 0 to 1."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return 0.0, 1.0
    half = quantile(0.975, n - 1) * float(np.std(values, ddof=1)) / n**0.5
    return max(mean - half, 0.0), min(mean + half, 1.0)
