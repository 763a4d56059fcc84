"""MLX's ring when a rank has ended: what it leaves in the place of a message, and a wait without an end."""

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lm_core.errors import LostRankError

pytest.importorskip("mlx.core")

import mlx.core as mx

from lm_mlx.ranks import MlxWorld

GROUP = cast("Any", SimpleNamespace(rank=lambda: 0, size=lambda: 2))
Rows = Callable[[np.ndarray], np.ndarray]


def ring(monkeypatch: pytest.MonkeyPatch, make: Rows) -> None:
    """An exchange that gives what `make` makes of our row [1, bytes]."""
    monkeypatch.setattr(
        mx.distributed, "all_gather", lambda ours, group, stream: mx.array(make(np.array(ours)).astype(np.uint8))
    )


def test_a_message_arrives_without_what_stands_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ring(monkeypatch, lambda ours: np.concatenate([ours, ours]))
    world = MlxWorld(GROUP)
    assert world.gather_equal(b"some") == [b"some", b"some"]
    assert world.of_all({"a": 1}) == [{"a": 1}] * 2


@pytest.mark.parametrize("keep", [0, 8, 11], ids=["nothing", "its number", "its start"])
def test_memory_in_the_place_of_a_message_is_a_lost_rank(monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    def cut(ours: np.ndarray) -> np.ndarray:
        theirs = np.full_like(ours, 7)
        theirs[:, :keep] = ours[:, :keep]
        return np.concatenate([ours, theirs])

    ring(monkeypatch, cut)
    with pytest.raises(LostRankError, match="another rank has ended"):
        MlxWorld(GROUP).gather_equal(b"some")


def test_the_message_of_an_earlier_exchange_is_a_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def stale(ours: np.ndarray) -> np.ndarray:
        seen.append(ours)
        return np.concatenate([ours, seen[0]])

    ring(monkeypatch, stale)
    world = MlxWorld(GROUP)
    assert world.gather_equal(b"some") == [b"some", b"some"]
    with pytest.raises(LostRankError):
        world.gather_equal(b"some")


def test_a_wait_over_a_closed_connection_is_in_vain_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was waited for before: a rank that has come to the last exchange ends as soon as it is done."""
    now = [100.0]
    monkeypatch.setattr("lm_mlx.ranks.time.monotonic", lambda: now[0])
    monkeypatch.setattr(MlxWorld, "_watch", lambda self: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        world = MlxWorld(GROUP, [ours.fileno()])
        world.waiting_since = now[0] - 60
        assert not world.waits_in_vain()
        theirs.send(b"half of a message")
        theirs.close()
        assert not world.waits_in_vain()
        now[0] += 4
        assert not world.waits_in_vain()
        world.waiting_since = now[0]  # for another exchange
        now[0] += 4
        assert not world.waits_in_vain()
        now[0] += 2
        assert world.waits_in_vain()
        world.waiting_since = None
        assert not world.waits_in_vain()
