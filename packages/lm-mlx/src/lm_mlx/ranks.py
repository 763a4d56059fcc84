"""The ranks of mx.distributed: how they find each other, and their gradients.

    MLX_RANK, MLX_HOSTFILE --join--> MlxWorld        agreements and gradients by MLX's ring, over TCP

mlx.launch says at which addresses; for one machine these are on its loopback interface. When a rank has ended, an
exchange of the others raises an error, or returns whatever was in memory, or never returns: each is noticed here.
"""

import os
import select
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import mlx.core as mx
import numpy as np
from mlx import nn

from lm_core import terminal
from lm_core.errors import LostRankError, UserError
from lm_core.world import GONE, World
from lm_mlx.optim.base import Arrays

_REPORTING = 2
"""Ranks that say that another one has gone: the first, and one more for the case that it is the first."""
_PATIENCE = 5.0
"""Seconds that an exchange may go on after a connection has been closed, before the process ends.

The last one may have waited for long when the other rank came to it and ended; what that rank has sent still arrives.
"""
_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


@contextmanager
def others() -> Iterator[None]:
    """A context in which this rank may wait for the others.

    Raises:
        LostRankError: when one has ended.
    """
    world = joined()
    if isinstance(world, MlxWorld):
        world.waiting_since = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if not world.is_lost(error):
            raise
        raise LostRankError(GONE.format(world.rank, world.size)) from None
    finally:
        if isinstance(world, MlxWorld):
            world.waiting_since = None


class MlxWorld(World):
    """See `lm_core.world.World`.

    Args:
        group: MLX's.
        connections: descriptors of the ring's sockets.
    """

    def __init__(self, group: mx.distributed.Group, connections: Sequence[int] = ()):
        self.group, self.rank, self.size = group, group.rank(), group.size()
        self.rounds = 0
        self.waiting_since: float | None = None
        self.closed_since: float | None = None
        self.poll = select.poll()
        for descriptor in connections:
            self.poll.register(descriptor, _CLOSED)
        if connections:
            Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End the process where it waits for a rank that has gone: the thread that waits cannot be woken."""
        while not self.waits_in_vain():
            time.sleep(1)
        terminal.say_error(Path(sys.argv[0]).stem, LostRankError(GONE.format(self.rank, self.size)))
        terminal.end(LostRankError.exit_code)

    def waits_in_vain(self) -> bool:
        """Whether an exchange has been waited for since a connection that it may need was seen to be closed."""
        now, waiting = time.monotonic(), self.waiting_since
        if self.closed_since is None and any(event & _CLOSED for _, event in self.poll.poll(0)):
            self.closed_since = now
        if waiting is None or self.closed_since is None:
            return False
        return now - max(waiting, self.closed_since) >= _PATIENCE

    def gather_equal(self, data: bytes) -> list[bytes]:
        """See `World.gather_equal`.

        A message stands between two copies of its number, by which one that has arrived is known.
        """
        self.rounds += 1
        mark = self.rounds.to_bytes(8, "little")
        ours = mx.array(np.frombuffer(mark + data + mark, np.uint8))[None]
        with others():
            rows = mx.distributed.all_gather(ours, group=self.group, stream=mx.cpu)
            mx.eval(rows)
        found = [bytes(row) for row in np.array(rows)]
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
    before = _sockets()
    try:
        group = mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        raise UserError(
            f"mlx.launch: the ranks do not reach each other ({str(error).strip()}): check the hosts and ports of"
            " MLX_HOSTFILE"
        ) from None
    _joined[:] = [MlxWorld(group, sorted(_sockets() - before))]
    return _joined[0]


def _sockets() -> set[int]:
    """Descriptors of this process that are sockets."""
    found = set()
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            if stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                found.add(int(path.name))
    return found


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
