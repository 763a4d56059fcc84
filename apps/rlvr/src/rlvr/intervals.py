"""95% intervals: of a share over problems, and of a mean over seeds."""

from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
_Z = 1.959964
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""0.975 quantiles of Student's t with 1, 2, ... degrees of freedom; the last one, a little too wide, for more."""


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
    half = float(_STUDENT[min(n - 1, len(_STUDENT)) - 1] * np.std(values, ddof=1) / np.sqrt(n))
    return max(mean - half, 0.0), min(mean + half, 1.0)
