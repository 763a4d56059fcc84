"""Statistics that are reported of a sample: its median, and the quartiles that say how far to trust it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Quartiles:
    """A median between its lower and upper quartile."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> Self:
        """The quartiles of `sample`, interpolated linearly."""
        low, median, high = np.percentile(sample, [25, 50, 75])
        return cls(float(low), float(median), float(high))


def with_quartiles(q: Quartiles) -> str:
    """A median between its quartiles."""
    return f"{q.median:.3f} ({q.low:.3f}-{q.high:.3f})"
