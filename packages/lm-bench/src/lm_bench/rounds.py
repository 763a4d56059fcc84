"""Interleaved rounds over many sides: what the machine does meanwhile hits all sides of a round alike.

Every round starts with another side, and every second one goes backwards.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from lm_bench.statistics import Quartiles

WARMUP_ROUNDS = 1
S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


def interleaved(
    sides: Sequence[S], rounds: int, block: Callable[[S], T], warmup: int = WARMUP_ROUNDS
) -> dict[S, list[T]]:
    """Results of `block(side)` in each of the last `rounds` of `warmup` + `rounds` rounds."""
    results: dict[S, list[T]] = {side: [] for side in sides}
    for i in range(warmup + rounds):
        start = i % len(sides) if sides else 0
        turn = [*sides[start:], *sides[:start]]
        for side in turn if i % 2 == 0 else reversed(turn):
            result = block(side)
            if i >= warmup:
                results[side].append(result)
    return results


def ratios(sample: Sequence[float], reference: Sequence[float] | None) -> Quartiles | None:
    """Reference / sample within each round: below 1 the reference is faster. None where there is no reference."""
    if reference is None:
        return None
    return Quartiles.of([ours / theirs for ours, theirs in zip(reference, sample, strict=True)])


def per_byte(sample: Sequence[float], size: int) -> list[float]:
    """Seconds of each round -> nanoseconds per byte."""
    return [1e9 * seconds / size for seconds in sample]
