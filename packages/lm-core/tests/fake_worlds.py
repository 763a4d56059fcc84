"""Worlds whose ranks are threads of one process, over the session's one collective."""

import threading
from collections.abc import Callable
from typing import Any

from lm_core.errors import LostRankError
from lm_core.world import World


class Meeting:
    """Where ranks exchange bytes, round by round; one that has left is not waited for."""

    def __init__(self, size: int):
        self.size = size
        self.changed = threading.Condition()
        self.rounds: dict[int, dict[int, bytes]] = {}
        self.left: set[int] = set()

    def exchange(self, number: int, rank: int, data: bytes) -> list[bytes]:
        with self.changed:
            given = self.rounds.setdefault(number, {})
            given[rank] = data
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: len(given) == self.size or self.left - given.keys(), 30)
            if len(given) < self.size:
                raise LostRankError(f"rank {rank}: another rank has ended")
            assert len({len(bytes_) for bytes_ in given.values()}) == 1, "a collective takes as much from every rank"
            return [given[other] for other in range(self.size)]

    def leave(self, rank: int) -> None:
        with self.changed:
            self.left.add(rank)
            self.changed.notify_all()


class ThreadWorld(World):
    """One of the ranks."""

    def __init__(self, rank: int, meeting: Meeting, words: dict[str, str]):
        self.rank, self.size, self.meeting, self.gathers, self.words = rank, meeting.size, meeting, 0, words

    def remember(self, key: str, value: str) -> None:
        self.words[key] = value

    def recall(self, key: str) -> str | None:
        return self.words.get(key)

    def gather_equal(self, data: bytes) -> list[bytes]:
        self.gathers += 1
        return self.meeting.exchange(self.gathers, self.rank, data)


def in_ranks(size: int, work: Callable[[World], Any], words: dict[str, str] | None = None) -> list[Any]:
    """What each rank's work returns or raises; a rank that ends leaves, as a process does. A launcher keeps `words`."""
    meeting, found = Meeting(size), list[Any]([None] * size)
    words = {} if words is None else words

    def one(rank: int) -> None:
        try:
            found[rank] = work(ThreadWorld(rank, meeting, words))
        except BaseException as error:
            found[rank] = error
        finally:
            meeting.leave(rank)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found
