"""Positions computed on the host for both backends, the same to the bit: starts of documents, and sinusoids."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST = 1e-4
"""Radians from one position to the next, in the slowest pair; in the fastest it is 1."""


def document_starts(segments: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The index at which each token's document starts: segments [B, T] -> [B, T].

    A document is a stretch of one number. Two stretches of the same number with another between them are two documents.
    """
    index = np.arange(segments.shape[1])
    is_start = np.ones(segments.shape, dtype=bool)
    is_start[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return np.asarray(np.maximum.accumulate(np.where(is_start, index, 0), axis=1))


def sinusoids(seq_len: int, d_model: int) -> NDArray[np.float64]:
    """The table [T, D] that is added to the token vectors, for an even D of 4 or more.

    Source: Vaswani et al. 2017, section 3.5, in the form of MLX's `nn.SinusoidalPositionalEncoding`: the sines in the
    first half of a vector and the cosines in the second, frequencies from 1 down to 1e-4, and all divided by
    sqrt(D / 2), so that a vector has length 1.
    """
    half = d_model // 2
    frequencies = LOWEST ** (np.arange(half) / (half - 1))
    turns = np.arange(seq_len)[:, None] * frequencies
    return np.asarray(np.concatenate([np.sin(turns), np.cos(turns)], axis=1) / np.sqrt(half))
