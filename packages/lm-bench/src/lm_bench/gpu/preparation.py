"""Sides of a wave get ready side by side, as many at a time as there are cores and as the card has room for."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lm_bench.gpu.jobs import Job
from lm_bench.gpu.room import Room, needed_bytes
from lm_bench.gpu.sides import Side, SideError

Start = Callable[[Job, int], Side]
"""Starts a side; the number is how many share the cores."""


class Preparation:
    """Sides from their start to their end."""

    def __init__(self, start: Start, room: Room, at_once: int):
        self.start, self.room, self.at_once = start, room, at_once
        self.ready_by = 0.0
        self.sides: list[Side] = []
        self.failures: dict[Job, str] = {}
        """Why a job has no side that is ready."""

    @contextlib.contextmanager
    def of(self, jobs: Sequence[Job], patience: float) -> Iterator[dict[Job, Side]]:
        """The sides that are ready within `patience` seconds; all end with the context."""
        self.ready_by = time.monotonic() + patience
        together = min(len(jobs), self.at_once)
        largest_first = sorted(jobs, key=needed_bytes, reverse=True)
        try:
            with ThreadPoolExecutor(together) as pool, self._stopping():
                ready = list(pool.map(lambda job: self._prepare(job, together), largest_first))
            yield {side.job: side for side in ready if side}
        finally:
            self._end()

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """An interrupt ends what is getting ready, and starts nothing more."""
        try:
            yield
        except BaseException:
            self.ready_by = 0.0
            self._end()
            raise

    def _prepare(self, job: Job, together: int) -> Side | None:
        with self.room.taking(job) as is_ready:
            if self.ready_by <= time.monotonic():
                self.failures[job] = "no time was left"
                return None
            side = self.start(job, together)
            self.sides.append(side)
            try:
                side.ready(max(0.0, self.ready_by - time.monotonic()))  # read again: an interrupt may have come
            except SideError as error:
                self.failures[job] = str(error)
                side.end()
                return None
            is_ready()
            return side

    def _end(self) -> None:
        for side in self.sides:
            side.end()
