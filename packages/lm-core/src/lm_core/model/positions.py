"""Sinusoidal positions: what is added to the token vectors, the same to the bit on both backends.

Source: Vaswani et al. 2017, section 3.5, in the form of MLX's `nn.SinusoidalPositionalEncoding`: the sines in the first
half of a vector and the cosines in the second, frequencies from 1 down to 1e-4, and all divided by sqrt(D / 2), so that
a vector has length 1.
"""

import numpy as np
from numpy.typing import NDArray

LOWEST = 1e-4
"""Radians from one position to the next, in the slowest pair; in the fastest it is 1."""


def sinusoids(seq_len: int, d_model: int) -> NDArray[np.float64]:
    """The table [T, D] for an even D of 4 or more."""
    half = d_model // 2
    frequencies = LOWEST ** (np.arange(half) / (half - 1))
    turns = np.arange(seq_len)[:, None] * frequencies
    return np.asarray(np.concatenate([np.sin(turns), np.cos(turns)], axis=1) / np.sqrt(half))
