"""Batches as pure functions of (seed, step, rank, world size).

There is no iterator state: a run resumes from its step number, any batch can be looked at again, and the rows of a
global batch are the same on one process or on many (rank r of w takes the r-th of w equal parts).

    (seed, step) -> length, starts -> rows [B / world, T + 1] -> inputs [B / world, T], targets [B / world, T]
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lm_core.errors import UserError
from lm_core.rng import generator

Ids = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """inputs [B, T] and the ids that follow them, targets [B, T]; int32, which every framework takes."""

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]

    @property
    def tokens(self) -> int:
        """Number of predicted tokens."""
        return self.targets.size

    def split(self, parts: int) -> list["Batch"]:
        """Equal micro-batches, in the order of the rows."""
        pairs = zip(np.split(self.inputs, parts), np.split(self.targets, parts), strict=True)
        return [Batch(inputs, targets) for inputs, targets in pairs]


class Batches(Protocol):
    """Where the run loop gets its batches."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` (counted from 1) that belong to `rank` of `world`."""


@dataclass(frozen=True)
class LengthRule:
    """The length of each step's windows: uniform in [shortest, longest], rounded up to a multiple, capped.

    Rounding keeps the number of distinct shapes small, which a compiler cares about.
    """

    shortest: int
    longest: int
    multiple: int = 1
    cap: int | None = None

    @property
    def largest(self) -> int:
        """The longest length that can be drawn."""
        return self._rounded(self.longest)

    def _rounded(self, length: int) -> int:
        rounded = -(-length // self.multiple) * self.multiple
        return rounded if self.cap is None else min(rounded, self.cap)

    def length(self, draw: np.random.Generator) -> int:
        """Draw one length."""
        return self._rounded(int(draw.integers(self.shortest, self.longest, endpoint=True)))


def windows(tokens: Ids, starts: NDArray[np.integer[Any]], length: int) -> Batch:
    """The windows of `length` + 1 ids at `starts`, as inputs and targets."""
    rows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]))


@dataclass(frozen=True)
class RandomWindows:
    """Windows whose starts are uniform over the tokens, with replacement, and whose length may vary by step."""

    tokens: Ids
    batch_size: int
    lengths: LengthRule
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) <= self.lengths.largest:
            raise UserError(
                f"{len(self.tokens)} tokens are too few for windows of {self.lengths.largest} and the id that follows"
            )

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides the batch size."""
        assert self.batch_size % world == 0, "the world size must divide the batch size"
        draw = generator(self.seed, "windows", step)
        length = self.lengths.length(draw)
        starts = draw.integers(0, len(self.tokens) - length, size=self.batch_size)
        share = self.batch_size // world
        return windows(self.tokens, starts[rank * share : (rank + 1) * share], length)


def frozen_batch(tokens: Ids, rows: int, length: int, seed: int) -> Batch:
    """One batch of random windows that stays the same for a whole run: what the run is evaluated on."""
    return RandomWindows(tokens, rows, LengthRule(length, length), seed).batch(0)
