"""The ranks of mx.distributed: how they find each other, and their gradients.

    MLX_RANK, MLX_HOSTFILE --join--> MlxWorld        agreements and gradients by MLX's ring, over TCP

mlx.launch says at which addresses; for one machine these are on its loopback interface.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
from mlx import nn

from lm_core.errors import LostRankError, UserError
from lm_core.world import GONE, World
from lm_mlx.optim.base import Arrays

_REPORTING = 2
"""Ranks that say that another one has gone: the first, and one more for the case that it is the first."""


@contextmanager
def others() -> Iterator[None]:
    """A context in which this rank may wait for the others.

    Raises:
        LostRankError: when one has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not joined().is_lost(error):
            raise
        raise LostRankError(GONE.format(joined().rank, joined().size)) from None


class MlxWorld(World):
    """See `lm_core.world.World`."""

    def __init__(self, group: mx.distributed.Group):
        self.group, self.rank, self.size = group, group.rank(), group.size()
        self.rounds = 0

    def gather_equal(self, data: bytes) -> list[bytes]:
        """See `World.gather_equal`.

        When a rank has ended, the ring's exchanges end too, some without an error and with whatever is in the memory of
        the result. So a message stands between two copies of its number, by which one that has arrived is known.
        """
        self.rounds += 1
        mark = self.rounds.to_bytes(8, "little")
        ours = mx.array(np.frombuffer(mark + data + mark, np.uint8))[None]
        with others():
            rows = np.array(mx.distributed.all_gather(ours, group=self.group, stream=mx.cpu))
        found = [bytes(row) for row in rows]
        if any(row[:8] != mark or row[-8:] != mark for row in found):
            raise LostRankError(GONE.format(self.rank, self.size))
        return [row[8:-8] for row in found]

    def is_lost(self, error: BaseException) -> bool:
        """See `World.is_lost`."""
        return isinstance(error, RuntimeError) and "[ring]" in str(error)

    def reports(self, error: BaseException) -> bool:
        """See `World.reports`; MLX has no place where ranks that have parted may agree on it."""
        return self.rank < _REPORTING or not isinstance(error, LostRankError)


_joined: list[MlxWorld] = []


def join() -> MlxWorld:
    """The ranks that mlx.launch has started, once all of them are there.

    Raises:
        UserError: when they do not find each other.
    """
    try:
        group = mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        raise UserError(
            f"mlx.launch: the ranks do not reach each other ({str(error).strip()}): check the hosts and ports of"
            " MLX_HOSTFILE"
        ) from None
    _joined[:] = [MlxWorld(group)]
    return _joined[0]


def joined() -> World:
    """The ranks that this process is one of."""
    return _joined[0] if _joined else World()


def means(world: World, loss: mx.array, grads: Arrays) -> tuple[mx.array, Arrays]:
    """The means over the ranks of a loss and of gradients, in buckets."""
    if not isinstance(world, MlxWorld):
        return loss, grads
    total = mx.distributed.all_sum(loss, group=world.group, stream=mx.cpu)
    averaged = nn.average_gradients(list(grads.values()), world.group)
    return total / world.size, dict(zip(grads, averaged, strict=True))
