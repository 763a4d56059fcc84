"""Counter-based random numbers: every draw is a function of its key, never of what was drawn before.

A key is a seed and any words that name the use, for example `generator(seed, "init", "embed.weight")` or
`generator(seed, "windows", step)`. So there is no random state to save, and order does not matter.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), as numpy's Philox-4x64.
"""

import hashlib

import numpy as np

GOLDEN = 0x9E3779B9
"""2^32 over the golden ratio: its multiples spread small numbers over 32 bits."""


def key(seed: int, *words: str | int) -> int:
    """The 128-bit key of (seed, words): the head of a SHA-256, so that near keys give unrelated streams."""
    text = "/".join([str(seed), *map(str, words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed: int, *words: str | int) -> np.random.Generator:
    """A numpy generator over the Philox stream of (seed, words)."""
    return np.random.Generator(np.random.Philox(key=key(seed, *words)))


def key32(seed: int, *words: str | int) -> int:
    """A 32-bit key of (seed, words), for random numbers that are made on the device (dropout masks)."""
    return key(seed, *words) & 0xFFFFFFFF


def threshold(rate: float) -> int:
    """The 32-bit number below which a hash falls with probability `rate`."""
    return int(rate * 2**32)
