"""Batches over a sequence of ids that may still grow: window after window, shuffled in blocks.

    place p of the order --epoch, block, permutation--> window i --> the T + 1 ids from i T on of the ids, repeated

The rows of step s are the places (s - 1) B, ..., s B - 1. Window i holds the T + 1 ids from i T on of the sequence
repeated without end, so a window may cross the end of a shard or of an epoch, and in the windows of an epoch every id
is a target exactly once. An epoch's windows are shuffled in blocks of a fixed number. Which windows a block has, and
their order, depends on what is in it alone, so batches are the same whether all ids were there from the start or came
later: a batch waits until its block is.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lm_core.data.batches import Batch, Origin
from lm_core.data.permutation import Permutation
from lm_core.errors import UserError

BLOCK = 4096
"""Windows that are shuffled together, unless a config says otherwise."""


_START = Origin()


class GrowingIds(Protocol):
    """A sequence of ids that may still grow (`lm_core.data.shards.ShardedIds`)."""

    @property
    def total(self) -> int | None:
        """Number of ids of all of it, once it is known."""

    def __len__(self) -> int:
        """Number of ids that are there."""

    def wait(self, count: int) -> None:
        """Wait until `count` ids are there, or there will be no more."""

    def rows(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[Any]:
        """The `length` ids from each of `starts` [B] on: [B, length]."""


@dataclass(frozen=True)
class StreamWindows:
    """Windows of one length over ids that may still grow, each once an epoch.

    Args:
        tokens: the ids.
        batch_size: B.
        length: T.
        seed: of the order.
        block: windows that are shuffled together.
        origin: where a resume has changed the batch size, or the ids.
    """

    tokens: GrowingIds
    batch_size: int
    length: int
    seed: int
    block: int = BLOCK
    origin: Origin = _START

    def __post_init__(self) -> None:
        self.tokens.wait(self.length + 1)
        if len(self.tokens) <= self.length:
            raise UserError(
                f"{len(self.tokens)} tokens are too few for windows of {self.length} and the id that follows"
            )

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides the batch size.

        It waits for ids that are not there yet.
        """
        assert self.batch_size % world == 0, "the world size must divide the batch size"
        share = self.batch_size // world
        first = self.origin.seen(step - 1, self.batch_size) + rank * share
        rows = self._rows(self._windows(np.arange(first, first + share)) * self.length)
        return Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]))

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of every step."""
        return self.batch_size, self.length

    def resumed(self, origin: Origin, step: int, batch_size: int, *, other: bool) -> "StreamWindows":
        """The batches of a run that is resumed after `step`: counted on, or from the start of other ids."""
        moved = Origin(step) if other else origin.moved(step, batch_size, self.batch_size)
        return replace(self, origin=moved)

    def _windows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The window at each place of the order."""
        self.tokens.wait((int(places[-1]) // self.block + 1) * self.block * self.length + 1)
        if (total := self.tokens.total) is None:  # so these blocks are there, and no epoch ends in them
            epochs = firsts = np.zeros_like(places)
            nexts = np.full_like(places, places[-1] + 2 * self.block)
        else:
            epochs = places * self.length // total
            firsts, nexts = (-(-(epochs + i) * total // self.length) for i in (0, 1))
        blocks = (places - firsts) // self.block
        found = np.empty_like(places)
        for epoch, block in set(zip(epochs.tolist(), blocks.tolist(), strict=True)):
            inside = (epochs == epoch) & (blocks == block)
            first, end = int(firsts[inside][0]) + block * self.block, int(nexts[inside][0])
            shuffled = Permutation(min(self.block, end - first), self.seed, "stream", epoch, block)
            found[inside] = first + shuffled(places[inside] - first)
        return found

    def _rows(self, starts: NDArray[np.int64]) -> NDArray[np.int32]:
        """The T + 1 ids from each of `starts` on of the ids repeated without end: [B, T + 1]."""
        length, total = self.length + 1, self.tokens.total
        if total is None:
            return self.tokens.rows(starts, length).astype(np.int32)
        starts = starts % total
        rows = np.empty((len(starts), length), np.int32)
        inside = starts + length <= total
        rows[inside] = self.tokens.rows(starts[inside], length)
        for number in np.flatnonzero(~inside):
            before = total - int(starts[number])
            rows[number, :before] = self.tokens.rows(starts[number : number + 1], before)
            rows[number, before:] = self.tokens.rows(np.array([0]), length - before)
        return rows
