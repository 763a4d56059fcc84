"""A text as windows in which each target counts once, however far the windows overlap.

    length 4, stride 2          targets 1 2 3 4 5 6 7
    window 0                            # # # #
    window 1                                . . # #          # counts, . is context
    window 2                                    . . #        the last one may be shorter

Limit: every `stride` targets cost a window of `length`, so overlapping by half costs twice the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.data.batches import Batch, Ids, windows
from lm_core.data.segments import with_segments
from lm_core.errors import UserError
from lm_core.model.positions import document_starts


@dataclass(frozen=True)
class Window:
    """A batch, and which of its targets count, bool [B, T]."""

    batch: Batch
    counted: NDArray[np.bool_]

    @property
    def context(self) -> NDArray[np.integer[Any]]:
        """How many tokens each target is predicted from, [B, T]: 1 to T."""
        B, T = self.counted.shape
        here = np.broadcast_to(np.arange(1, T + 1), (B, T))
        return here if self.batch.segments is None else here - document_starts(self.batch.segments)


@dataclass(frozen=True)
class SlidingWindows:
    """All tokens in order: every id but the first is a target that counts exactly once.

    A target that counts has `length` - `stride` tokens before it at least, but for those of the first window.

    Args:
        tokens: ids, in memory or on disk.
        batch_size: windows at a time.
        length: T, tokens of a window.
        stride: tokens from one window to the next; `length` for windows that do not overlap.
        limit: count only so many targets, the first ones; 0: all.
        end: the id that ends a document, where attention is to stay within documents (`lm_core.data.segments`).

    Raises:
        UserError: when there is no target, or the windows would leave targets out.
    """

    tokens: Ids
    batch_size: int
    length: int
    stride: int
    limit: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.length:
            raise UserError(f"stride {self.stride} leaves tokens out: give 1 to {self.length}, the model's context")
        if self.targets < 1:
            raise UserError(
                f"{len(self.tokens)} tokens have no target to evaluate on: two are needed, since each is predicted from"
                " those before it"
            )

    @property
    def targets(self) -> int:
        """Number of targets that count."""
        there = len(self.tokens) - 1
        return min(there, self.limit) if self.limit else there

    @property
    def starts(self) -> range:
        """Where the windows start."""
        more = -(-max(0, self.targets - self.length) // self.stride)
        return range(0, more * self.stride + 1, self.stride)

    def __iter__(self) -> Iterator[Window]:
        starts = self.starts
        whole = starts if starts[-1] + self.length <= self.targets else starts[:-1]
        for first in range(0, len(whole), self.batch_size):
            yield self._window(np.array(whole[first : first + self.batch_size]), self.length)
        if len(whole) < len(starts):
            yield self._window(np.array(starts[-1:]), self.targets - starts[-1])

    def _window(self, starts: NDArray[np.int64], length: int) -> Window:
        batch = windows(self.tokens, starts, length)
        batch = batch if self.end is None else with_segments(batch, self.end)
        context = np.where(starts > 0, self.length - self.stride, 0)
        return Window(batch, np.arange(length) >= context[:, None])
