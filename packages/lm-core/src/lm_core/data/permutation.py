"""A random order of n things without a table of n entries.

A Feistel network (Luby and Rackoff 1988) is a bijection of [0, 4^k) whatever its round function is. Where it leads out
of [0, n) it is applied again until it leads back in, "cycle walking" (Black and Rogaway 2002), which makes it a
bijection of [0, n). 4^k is at most 4 n, so that takes no more than 4 turns on average.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.rng import generator

ROUNDS = 8
"""Four are enough where a round function is random (Luby and Rackoff); more make up for one that is only a hash."""


class Permutation:
    """The permutation of [0, n) that belongs to (seed, words); n is at most 2^62."""

    def __init__(self, n: int, seed: int, *words: str | int):
        self.n = n
        half = max(1, -(-(n - 1).bit_length() // 2))
        self.half, self.mask = np.uint64(half), np.uint64((1 << half) - 1)
        self.keys = generator(seed, "permutation", *words).integers(0, 2**64, ROUNDS, dtype=np.uint64)

    def __call__(self, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Map `positions`, of any shape, to their images."""
        found = self._feistel(positions.astype(np.uint64))
        outside = found >= self.n
        while outside.any():
            found[outside] = self._feistel(found[outside])
            outside = found >= self.n
        return found.astype(np.int64)

    def _feistel(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> self.half, x & self.mask
        for key in self.keys:
            left, right = right, left ^ (_hash(right ^ key) & self.mask)
        return (left << self.half) | right


def _hash(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014), on 64-bit numbers that wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
