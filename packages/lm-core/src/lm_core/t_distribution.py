"""Student's t distribution, central and noncentral, by numpy alone.

T = (Z + shift) / S, where Z is normal and df S^2 is chi-squared, so P(T > t) = E[P(Z > t S - shift)]. Over
u = log S the density falls off exponentially on both sides, where the trapezoid rule converges exponentially (Trefethen
and Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 2014). A tail is a sum of positive terms, so
its relative error is small too, down to tails of 1e-20.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_NODES = 600


def tail(t: float, df: float, shift: float = 0.0) -> float:
    """P(T > t) of the t distribution with `df` degrees of freedom and noncentrality `shift`."""
    if math.isinf(t):
        return float(t < 0)
    scales, weights = _scales(df)
    return float(sum(w * math.erfc((t * s - shift) / math.sqrt(2)) for s, w in zip(scales, weights, strict=True)) / 2)


@lru_cache(maxsize=256)
def quantile(share: float, df: float) -> float:
    """The t below which T is with probability `share`, between 0 and 1."""
    if share < 0.5:
        return -quantile(1 - share, df)
    high = 1.0
    while tail(high, df) > 1 - share:
        high *= 2
    low = 0.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if tail(middle, df) > 1 - share else (low, middle)
    return high


@lru_cache(maxsize=256)
def _scales(df: float) -> tuple[list[float], list[float]]:
    """Values of S and their weights, which sum to 1."""
    width = 7 / math.sqrt(df)
    u = np.linspace(-40 / df - width, min(width, 2.5), _NODES)
    density: Array = np.exp(df * (u - np.expm1(2 * u) / 2))
    return list(map(float, np.exp(u))), list(map(float, density / density.sum()))
