"""What a backend adds up of attention weights (`TappedLayer.attention_totals`), over a corpus; and weights in parts.

A row is one document (`windows`). The sums are float64, [L, N, ...], whatever the length of the corpus.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import TappedLayer

Array = NDArray[np.float64]
Weights = NDArray[np.floating[Any]]
"""Of some heads, [B, N, T, T]; a row sums to 1, and nothing sees the future."""
ELEMENTS = 1 << 22
"""Attention weights that are held at a time, of one row and one head at least: 16 MiB of them."""


def some_heads(layer: TappedLayer, n_heads: int, shape: tuple[int, int]) -> Iterator[tuple[slice, Weights]]:
    """The weights of a layer that has read a batch of a shape [B, T], of as many heads at a time as fit."""
    rows, length = shape
    count = max(1, ELEMENTS // (rows * length * length))
    for first in range(0, n_heads, count):
        heads = slice(first, min(first + count, n_heads))
        yield heads, layer.attention(heads)


class AttentionSums:
    """What is added up of every layer and head, for rows of one length T."""

    def __init__(self, n_layers: int, n_heads: int, length: int) -> None:
        self.length = length
        self.rows = np.zeros(n_layers, dtype=np.int64)
        self.distances, self.entropy, self.first = (
            np.zeros((n_layers, n_heads, *shape)) for shape in ((length,), (), ())
        )

    def add(self, layer: int, tapped: TappedLayer, rows: int) -> None:
        """Add a layer that has read so many rows."""
        self.rows[layer] += rows
        totals = tapped.attention_totals()
        self.distances[layer] += totals.distance
        self.entropy[layer] += totals.entropy
        self.first[layer] += totals.first

    def results(self) -> dict[str, Array]:
        """Means over the queries: see `lm_pipeline.inside.study.Study`."""
        rows = self.rows[:, None]
        share = self.distances / (rows[..., None] * self.length)
        return {
            "distance": share,
            "mean_distance": share @ np.arange(self.length),
            "entropy": self.entropy / (rows * self.length),
            "previous_token": self.distances[..., 1] / (rows * (self.length - 1)),
            "first_token": self.first / (rows * (self.length - 1)),
        }
