"""How often every pretoken of a corpus occurs, counted by threads.

units --threads--> a table each --merge--> one table, after every SEGMENT of text
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lm_tokenizer._kernels import count
from lm_tokenizer._kernels.cache import SLOT
from lm_tokenizer._kernels.count import Counts
from lm_tokenizer._kernels.encode import Scratch
from lm_tokenizer._kernels.scan import INVALID
from lm_tokenizer.corpus import Unit
from lm_tokenizer.engine import PATTERN_NUMBERS, aligned, class_table, new_scratch
from lm_tokenizer.pretokenize import byte_ends, end_finder, name_of

SEGMENT = 1 << 26
"""Bytes of text after which the threads' tables are merged."""
MOST_PRETOKENS = 10_000_000
"""Distinct pretokens that are kept, in about 250 bytes each while they are counted and merged. When a segment ends
with more, the rarest are dropped."""


class Table:
    """Pretokens and their counts, in memory that grows."""

    def __init__(self, slots: int = 1 << 16, room: int = 1 << 20) -> None:
        self.slots, self.room = slots, room
        self._table, self._arena, self._used = aligned(slots * SLOT), np.empty(room, np.uint8), np.zeros(2, np.int64)
        self.counts = Counts(
            self._table.ctypes.data, 64 - (slots.bit_length() - 1), self._arena.ctypes.data, room,
            self._used.ctypes.data,
        )  # fmt: skip

    def __len__(self) -> int:
        return int(self._used[0])

    @property
    def arena_used(self) -> int:
        """Bytes that the long pretokens take."""
        return int(self._used[1])

    def with_room_for(self, pretokens: int, n_bytes: int) -> "Table":
        """This table, or a larger one of the same content, with room for more pretokens."""
        slots, room = self.slots, self.room
        while 2 * (len(self) + pretokens) > slots:
            slots *= 2
        while self.arena_used + n_bytes + 8 * pretokens > room:
            room *= 2
        if (slots, room) == (self.slots, self.room):
            return self
        larger = Table(slots, room)
        count.add_all(self.counts, larger.counts, 1)
        return larger

    def merged(self, other: "Table") -> "Table":
        """The sum of two tables."""
        if len(other) > len(self):
            return other.merged(self)
        total = self.with_room_for(len(other), other.arena_used)
        count.add_all(other.counts, total.counts, 1)
        return total

    def pruned(self, most: int) -> "Table":
        """The table without its rarest pretokens, so many that at most `most` are left."""
        _, numbers = self.pretokens(1)
        least = int(np.sort(numbers)[-most]) + 1 if len(numbers) > most else 1
        kept = Table(self.slots, self.room)
        count.add_all(self.counts, kept.counts, least)
        return kept

    def pretokens(self, shortest: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Address of the slot and count of every pretoken of at least `shortest` bytes, int64."""
        places, numbers = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        n = count.pretokens_of(self.counts, shortest, places, numbers)
        return places[:n], numbers[:n]


class Tally:
    """Counts units with one table for each of some threads."""

    def __init__(self, pattern: str, threads: int, on_bytes: Callable[[int], object] = lambda _: None) -> None:
        self._pattern = PATTERN_NUMBERS.get(name_of(pattern) or "")
        self._ends = end_finder(pattern) if self._pattern is None else None
        self._threads, self._on_bytes = threads, on_bytes
        self._classes = class_table()
        self.most = MOST_PRETOKENS
        self.dropped = 0
        """Distinct pretokens that were dropped because there were more than `most`."""

    def count(self, units: Iterator[Unit]) -> Table:
        """Count all pretokens of all units.

        Raises:
            TokenizerError: for a text that is not UTF-8.
        """
        total = Table()
        lock = threading.Lock()
        more = True
        while more:
            left = [SEGMENT]

            def take(left: list[int] = left) -> Unit | None:
                with lock:  # reading is quicker than counting, and in order
                    if left[0] <= 0:
                        return None
                    unit = next(units, None)
                    left[0] = left[0] - len(unit.data) if unit is not None else 0
                    return unit

            with ThreadPoolExecutor(self._threads) as pool:
                try:
                    tables = list(pool.map(lambda _, take=take: self._work(take), range(self._threads)))
                except BaseException:
                    left[0] = 0  # the other threads end with their current unit
                    raise
            more = left[0] < 0 or any(len(table) for table in tables)
            for table in tables:
                total = total.merged(table)
            if len(total) > self.most:
                before = len(total)
                total = total.pruned(self.most)
                self.dropped += before - len(total)
        return total

    def _work(self, take: Callable[[], Unit | None]) -> Table:
        table = Table()
        scratch, _memory = new_scratch()
        while (unit := take()) is not None:
            table = self._count_unit(unit, table, scratch)
            self._on_bytes(len(unit.data))
        return table

    def _count_unit(self, unit: Unit, table: Table, scratch: Scratch) -> Table:
        data = np.frombuffer(unit.data, np.uint8)
        begin, readable = data.ctypes.data, data.ctypes.data + len(data)
        progress = np.zeros(2, np.int64)
        if self._pattern is not None:
            while True:
                outcome = count.count_texts(
                    begin,
                    unit.begins,
                    unit.ends,
                    readable,
                    self._classes.ctypes.data,
                    self._pattern,
                    table.counts,
                    scratch,
                    progress,
                )
                if outcome == INVALID:
                    unit.check()
                if outcome == 0:
                    return table
                table = table.with_room_for(table.slots // 2, table.room)
        assert self._ends is not None
        unit.check()
        for start, end in zip(unit.begins, unit.ends, strict=True):
            text = unit.data[start:end].decode()
            ends = byte_ends(self._ends(text), text, data[start:end])
            progress[:] = 0
            while count.count_pretokens(begin + start, ends, readable, table.counts, scratch, progress):
                table = table.with_room_for(table.slots // 2, table.room)
        return table
