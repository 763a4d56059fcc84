"""The size of the weights, by the part of the model that they belong to."""

import math

import numpy as np

from lm_core.backend import NumpyArrays


def part_of(name: str) -> str:
    """The part of a parameter: "embed" (tokens, positions), "blocks.0", ..., "head" (final norm, output head)."""
    words = name.split(".")
    if words[0] == "blocks":
        return f"blocks.{words[1]}"
    return "embed" if words[0] in ("embed", "pos_embed") else "head"


def weight_norms(weights: NumpyArrays) -> dict[str, float]:
    """The L2 norm of each part's weights, in the order of the table."""
    squares: dict[str, float] = {}
    for name, array in weights.items():
        squares[part_of(name)] = squares.get(part_of(name), 0.0) + float(np.square(array, dtype=np.float64).sum())
    return {part: math.sqrt(square) for part, square in squares.items()}
