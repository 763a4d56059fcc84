"""Interleaved timing: A B, B A, A B, ...

What the machine does meanwhile (frequency, neighbours, heat) changes slowly against one round: it hits both blocks of
a round alike and cancels in the round's ratio. Flipping the order takes away the advantage of going second.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

Block = Callable[[], None]
"""Runs a number of steps and waits until the device has finished them."""


@dataclass(frozen=True)
class Rounds:
    """Seconds that each block took, by round."""

    ours: list[float]
    bare: list[float]

    @property
    def ratios(self) -> list[float]:
        """Ours / bare, by round."""
        return [a / b for a, b in zip(self.ours, self.bare, strict=True)]


def timed(block: Block, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a block takes."""
    started = clock()
    block()
    return clock() - started


def interleave(
    ours: Block, bare: Block, rounds: int, warmup: int, clock: Callable[[], float] = time.perf_counter
) -> Rounds:
    """Run both blocks `warmup` + `rounds` times and time the last `rounds`."""
    blocks: tuple[Block, Block] = (ours, bare)
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(warmup + rounds):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            seconds[side].append(timed(blocks[side], clock))
    return Rounds(seconds[0][warmup:], seconds[1][warmup:])
