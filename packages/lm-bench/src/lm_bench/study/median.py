"""The median of a sample, some of which may be censored, as is the time of a run that never reaches its target.

The interval is between two numbers of the sample in order, whose ranks the binomial distribution gives: it needs no
assumption on how the numbers are distributed, and where too many are censored its end is infinite rather than wrong.
Below six numbers there is none of 95%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from lm_bench.study.estimate import LEVEL, Interval


@dataclass(frozen=True)
class Median:
    """Median of a sample; infinite where half of it is censored."""

    n: int
    value: float
    interval: Interval | None
    """At least 95%; None of fewer than six."""

    @classmethod
    def of(cls, sample: Sequence[float]) -> Self:
        """The median of one or more numbers, of which those that are censored are infinite."""
        values, n = sorted(sample), len(sample)
        outside, below = -1, 0.0  # how many numbers at either end may be left out
        while (below := below + math.comb(n, outside + 1) / 2**n) <= (1 - LEVEL) / 2:
            outside += 1
        middle = values[(n - 1) // 2], values[n // 2]
        interval = (values[outside], values[n - 1 - outside]) if outside >= 0 else None
        return cls(n, middle[0] if middle[0] == middle[1] else sum(middle) / 2, interval)
