"""Batches as pure functions of (seed, step, rank, world size), and of where a resume has changed the batch size.

There is no iterator state: a run resumes from its step number, any batch can be looked at again, and the rows of a
global batch are the same on one process or on many (rank r of w takes the r-th of w equal parts).

    (seed, step) -> length, starts -> rows [B / world, T + 1] -> inputs [B / world, T], targets [B / world, T]

A resume that changes the batch size leaves an `Origin` in its checkpoints, from which windows are counted on.

    RandomWindows      training, with replacement, lengths that vary
    Bursts             training, windows of another text in rare stretches of steps
    ShuffledWindows    training, every window of an epoch once
    StreamWindows      the same of shards that may still be written (`lm_core.data.stream`)
    SequentialWindows  evaluation, every token once
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lm_core.data.permutation import Permutation
from lm_core.data.shards import ShardedIds
from lm_core.data.token_ids import TokenIds
from lm_core.errors import UserError
from lm_core.rng import generator

Ids = NDArray[Any] | TokenIds | ShardedIds
"""[tokens], in memory or on disk."""


_KINDS = {"inputs": np.integer, "targets": np.integer, "weights": np.float32, "segments": np.integer}


@dataclass(frozen=True)
class Batch:
    """inputs [B, T] and the ids that follow them, targets [B, T]; int32, which every framework takes.

    The loss is the mean over ALL B x T targets of weight x nats: divided by the number of targets, never by the sum of
    the weights. So it is linear in them, and micro-batches, ranks and negative weights (advantages) need nothing of
    their own. Who masks targets out brings the weights of the global batch to mean 1 (`mean_one`), so that the loss is
    the mean over those that are left.

    Raises:
        ValueError: when the arrays do not fit together.
    """

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32] | None = None
    """[B, T], float32, a factor of each target's loss; None is 1 everywhere."""
    segments: NDArray[np.integer[Any]] | None = None
    """[B, T], which document each input is of: attention stays within it, and positions count from its first token.

    A document is a contiguous stretch of one number; what the number is does not matter, and two stretches of the same
    number with another between them are two documents. None: each row is one document.

    The target of a document's last token is the first of the next one: give it weight 0 where it is not to be learned.
    """

    def __post_init__(self) -> None:
        shape = self.inputs.shape
        for name, kind in _KINDS.items():
            array = getattr(self, name)
            if array is None or (len(shape) == 2 and array.shape == shape and np.issubdtype(array.dtype, kind)):
                continue
            raise ValueError(f"a batch's {name} are {array.dtype} {array.shape}; {kind.__name__} [B, T] like inputs")

    @property
    def tokens(self) -> int:
        """Number of predicted tokens."""
        return self.targets.size

    def split(self, parts: int) -> list["Batch"]:
        """Equal micro-batches, in the order of the rows."""
        columns = (
            [None] * parts if array is None else np.split(array, parts)
            for array in (self.inputs, self.targets, self.weights, self.segments)
        )
        return [Batch(*arrays) for arrays in zip(*columns, strict=True)]


def mean_one(mask: NDArray[Any]) -> NDArray[np.float32]:
    """Weights in proportion to a mask (bool or numbers of 0 and above) that are 1 on average, [B, T] -> [B, T].

    The mask is that of the global batch: on each of several ranks, its rows are taken of the result.

    Raises:
        UserError: when nothing is left to learn from.
    """
    total = mask.sum(dtype=np.float64)
    if not total > 0:
        raise UserError("a batch whose targets are all masked has no loss: leave it out, or mask fewer of them")
    return np.asarray(mask * (mask.size / total), dtype=np.float32)


def joined(parts: Sequence[Batch]) -> Batch:
    """The rows of several batches, in their order."""
    if len(parts) == 1:
        return parts[0]

    def rows(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    return Batch(*map(rows, _KINDS))


class Batches(Protocol):
    """Source of batches for the run loop."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` (counted from 1) that belong to `rank` of `world`."""

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of `step`, all ranks together, for which no batch is made."""


def rank_batch(batches: Batches, step: int, rank: int, world: int, parts: int) -> Batch:
    """A rank's rows of a step that is taken in so many micro-batches: its share of each of them, in their order.

    So micro-batch i of all ranks together has the rows of micro-batch i of one process.
    """
    if world == 1:
        return batches.batch(step)
    return joined([batches.batch(step, i * world + rank, parts * world) for i in range(parts)])


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
    if isinstance(tokens, np.ndarray):
        rows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    else:
        rows = tokens.rows(starts, length + 1).astype(np.int32)
    return Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]))


def _check_enough(tokens: Ids, length: int) -> None:
    if len(tokens) <= length:
        raise UserError(f"{len(tokens)} tokens are too few for windows of {length} and the id that follows")


@dataclass(frozen=True)
class RandomWindows:
    """Windows whose starts are uniform over the tokens, with replacement, and whose length may vary by step."""

    tokens: Ids
    batch_size: int
    lengths: LengthRule
    seed: int

    def __post_init__(self) -> None:
        _check_enough(self.tokens, self.lengths.largest)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides the batch size."""
        assert self.batch_size % world == 0, "the world size must divide the batch size"
        draw = generator(self.seed, "windows", step)
        length = self.lengths.length(draw)
        starts = draw.integers(0, len(self.tokens) - length, size=self.batch_size)
        share = self.batch_size // world
        return windows(self.tokens, starts[rank * share : (rank + 1) * share], length)

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of `step`."""
        return self.batch_size, self.lengths.length(generator(self.seed, "windows", step))


@dataclass(frozen=True)
class Bursts:
    """Random windows with rare bursts of another text: stretches of whole steps that read that text alone.

    Steps are divided into stretches of `length`; each is a burst with probability `rate`, by the seed and its number.
    Between the bursts the windows are those that there would be without any.
    """

    usual: RandomWindows
    other: Ids
    rate: float
    length: int

    def __post_init__(self) -> None:
        _check_enough(self.other, self.usual.lengths.largest)

    def is_burst(self, step: int) -> bool:
        """Whether a step, counted from 1, reads the other text."""
        return bool(generator(self.usual.seed, "burst", (step - 1) // self.length).random() < self.rate)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides the batch size."""
        source = replace(self.usual, tokens=self.other) if self.is_burst(step) else self.usual
        return source.batch(step, rank, world)

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of `step`."""
        return self.usual.shape(step)


def frozen_batch(tokens: Ids, rows: int, length: int, seed: int) -> Batch:
    """One batch of random windows that stays the same for a whole run: what the run is evaluated on."""
    return RandomWindows(tokens, rows, LengthRule(length, length), seed).batch(0)


@dataclass(frozen=True)
class Origin:
    """Progress of training at the last change of its batch size."""

    step: int = 0
    windows: int = 0
    """Windows that the steps up to `step` have read."""

    def seen(self, step: int, batch_size: int) -> int:
        """Windows that the steps up to `step` have read."""
        return self.windows + (step - self.step) * batch_size

    def moved(self, step: int, batch_size: int, new_size: int, per_epoch: int | None = None) -> "Origin":
        """Origin of a run resumed after `step` with another batch size; with the same one, it stays.

        `per_epoch` is given where other tokens are read from here on, of which an epoch begins.
        """
        seen = self.seen(step, batch_size)
        if per_epoch:
            return Origin(step, -(-seen // per_epoch) * per_epoch)
        return self if batch_size == new_size else Origin(step, seen)


@runtime_checkable
class Resumable(Batches, Protocol):
    """Batches that are counted on from an origin where a resume changes the batch size."""

    @property
    def batch_size(self) -> int:
        """B."""

    @property
    def origin(self) -> Origin:
        """Progress at the last change of the batch size."""

    def resumed(self, origin: Origin, step: int, batch_size: int, *, other: bool) -> "Resumable":
        """The batches of a run that is resumed after `step`.

        Args:
            origin: that of its checkpoint.
            step: of its checkpoint.
            batch_size: B before.
            other: whether other tokens are read from here on.
        """


@dataclass(frozen=True)
class ShuffledWindows:
    """Windows of one length without replacement: an epoch visits each of its windows once, in an order of its own.

    Epoch e cuts the tokens into `per_epoch` non-overlapping windows from a random offset, so the cuts fall elsewhere
    each time. The rows of step s are the windows (s - 1) B, ..., s B - 1, counted on through the epochs, and from
    `origin` where a run was resumed with another B; nothing but the rows asked for is ever in memory, however many
    tokens there are.

    Limit: between one and two windows' worth of tokens are left over in each epoch, others each time.
    """

    tokens: Ids
    batch_size: int
    length: int
    seed: int
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        _check_enough(self.tokens, self.length)

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch: one fewer than would fit, so that there is room for every offset."""
        return max(1, (len(self.tokens) - 1) // self.length - 1)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides the batch size."""
        assert self.batch_size % world == 0, "the world size must divide the batch size"
        share = self.batch_size // world
        first = self.origin.seen(step - 1, self.batch_size) + rank * share
        epochs, positions = np.divmod(np.arange(first, first + share), self.per_epoch)
        starts = np.empty(share, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            starts[inside] = self._starts(int(epoch), positions[inside])
        return windows(self.tokens, starts, self.length)

    def resumed(self, origin: Origin, step: int, batch_size: int, *, other: bool) -> "ShuffledWindows":
        """The batches of a run that is resumed after `step`; other tokens start with an epoch."""
        per_epoch = self.per_epoch if other else None
        return replace(self, origin=origin.moved(step, batch_size, self.batch_size, per_epoch))

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of every step."""
        return self.batch_size, self.length

    def _starts(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        spare = len(self.tokens) - 1 - self.per_epoch * self.length
        offset = int(generator(self.seed, "offset", epoch).integers(0, spare, endpoint=True))
        return offset + self.length * Permutation(self.per_epoch, self.seed, "windows", epoch)(positions)


@dataclass(frozen=True)
class SequentialWindows(Sequence[Batch]):
    """All tokens in order, for evaluation: every id but the first is a target exactly once.

    Batches of `batch_size` windows of `length`, made when they are asked for; the last of them may have fewer rows.
    What is left over at the end, shorter than a window, is a batch of its own with one row of that length. So there are
    at most three shapes.

    Args:
        tokens: ids, in memory or on disk.
        batch_size: B.
        length: T.
        limit_tokens: score only so many targets, the first ones.
    """

    tokens: Ids
    batch_size: int
    length: int
    limit_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise UserError(
                f"{len(self.tokens)} tokens are too few to evaluate on: there must be two, and a limit above 0"
            )

    @property
    def targets(self) -> int:
        """Number of ids that are scored."""
        there = len(self.tokens) - 1
        return there if self.limit_tokens is None else min(there, self.limit_tokens)

    def __len__(self) -> int:
        full, rest = divmod(self.targets, self.length)
        return -(-full // self.batch_size) + bool(rest)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        """The batch of an index, or those of a slice."""
        places = range(len(self))[index]  # raises the IndexError that ends an iteration
        return [self._batch(place) for place in places] if isinstance(places, range) else self._batch(places)

    def _batch(self, place: int) -> Batch:
        full, rest = divmod(self.targets, self.length)
        first = place * self.batch_size
        if first >= full and rest:
            return windows(self.tokens, np.array([full * self.length]), rest)
        return windows(self.tokens, self.length * np.arange(first, min(first + self.batch_size, full)), self.length)
