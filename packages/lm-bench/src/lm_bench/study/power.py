"""Power of a paired comparison, stated before a study runs: the effect that so many seeds show, and the seeds for one.

An effect is a mean difference over the standard deviation of the paired differences. The test is the two-sided paired t
test at `alpha`, over the number of comparisons where there are several (Bonferroni: the first step of Holm's, so never
too hopeful). The power is exact, by the noncentral t distribution.

Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences" (1988).
"""

import math

from lm_bench.study.config import StudyConfig
from lm_core.t_distribution import quantile, tail

ALPHA, POWER = 0.05, 0.8
"""Chance of a false alarm, and of seeing an effect that is there."""
_MOST_SEEDS = 1 << 20


def power(effect: float, n: int, comparisons: int = 1, alpha: float = ALPHA) -> float:
    """Chance that `n` pairs, at least two, show an effect."""
    bound, shift = quantile(1 - alpha / comparisons / 2, n - 1), effect * math.sqrt(n)
    return tail(bound, n - 1, shift) + 1 - tail(-bound, n - 1, shift)


def smallest_effect(n: int, comparisons: int = 1, wanted: float = POWER, alpha: float = ALPHA) -> float | None:
    """The smallest effect that `n` pairs show with the power that is wanted; None of one pair, which shows nothing."""
    if n < 2:
        return None
    low, high = 0.0, 1.0
    while power(high, n, comparisons, alpha) < wanted:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, n, comparisons, alpha) >= wanted else (middle, high)
    return high


def seeds_needed(effect: float, comparisons: int = 1, wanted: float = POWER, alpha: float = ALPHA) -> int | None:
    """The fewest pairs that show an effect with the power that is wanted; None where a million do not."""
    low, high = 1, 2
    while power(effect, high, comparisons, alpha) < wanted:
        low, high = high, 2 * high
        if high > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, comparisons, alpha) >= wanted else (middle, high)
    return high


def power_line(study: StudyConfig) -> str:
    """The smallest effect that the seeds can show, over all comparisons; and whether the sign flips can show any."""
    arms = len(study.arms)
    pairs = arms - 1 if study.baseline else math.comb(arms, 2)
    comparisons = pairs * len(study.budgets) * len(study.backends)
    effect = smallest_effect(study.seeds, comparisons, study.power, study.alpha)
    floor = min(1.0, comparisons * 2.0 ** (1 - study.seeds))
    flips = f"; the p of the sign flips is {floor:.2g} at best, so they show nothing" if floor > study.alpha else ""
    return (
        f"{study.seeds} paired seeds show a mean difference of {effect:.2f} standard deviations of the differences with"
        f" a probability of {study.power:.0%}, over {comparisons} comparisons at alpha {study.alpha:g}; a difference of"
        f" {study.smallest_effect:g} in {study.metric} is the smallest that matters{flips}"
    )
