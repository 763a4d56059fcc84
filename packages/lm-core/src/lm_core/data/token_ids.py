"""Ids in a file, read where they are used: memory does not grow with it.

    ids[5]  ids[10:20]  ids.rows(starts, length) --preadv--> arrays --checks--> the caller

Nothing is mapped into memory: a mapped file that is cut while it is read ends the process by SIGBUS, without a word.
And a file that is overwritten in place while a run reads it is noticed: its size and time are asked for after each
read, which takes a microsecond, and when they have changed, all of it is compared with its SHA-256 again.

Limit: what is overwritten through somebody's memory map is noticed when the system writes it back.
"""

import hashlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lm_core.disk.untrusted import may_pass, open_regular
from lm_core.errors import UnreadableError, UserError

_CHUNK = 1 << 22
"""Ids that are checked at a time."""


class TokenIds:
    """The `count` ids of a file from byte `start` on, as far as a 1-D array of them is needed.

    Args:
        path: of the file, which messages name.
        dtype: of an id in the file.
        start: bytes before the first id.
        count: of the ids.
        vocab_size: every id is below it.
        sha256: of the ids as they lie in the file; taken from the file where it is not known.

    Raises:
        UserError: when it cannot be opened.
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], start: int, count: int, vocab_size: int, sha256: str = ""
    ) -> None:
        self.path, self.dtype, self.start, self.count = path, dtype, start, count
        self.vocab_size, self.sha256 = vocab_size, sha256
        try:
            with open_regular(path) as file:
                self._descriptor = os.dup(file.fileno())
        except OSError as error:
            kind = UnreadableError if may_pass(error) else UserError
            raise kind(f"cannot read token file {path}: {error.strerror}") from None
        weakref.finalize(self, os.close, self._descriptor)
        self._stamp = self._stamped()

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> NDArray[Any]: ...
    def __getitem__(self, key: int | slice) -> int | NDArray[Any]:
        """An id, or an array of those in a slice."""
        places = range(self.count)[key]
        if isinstance(places, int):
            return int(self.rows(np.array([places]), 1)[0, 0])
        first, last = (min(places), max(places)) if places else (0, -1)
        row: NDArray[Any] = self.rows(np.array([first]), last + 1 - first)[0]
        return row if places.step == 1 else row[[place - first for place in places]]

    def rows(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[Any]:
        """The `length` ids from each of `starts` [B] on: [B, length].

        Raises:
            UserError: when the file is no longer what was opened, or holds an id beyond the vocabulary.
        """
        rows = self._read(starts, length)
        if self._stamped() != self._stamp:
            self.verify()
        self._check_vocabulary(rows)
        return rows

    def verify(self) -> None:
        """Read all of it, and compare the SHA-256 and every id (about a second for a gigabyte).

        Raises:
            UserError: when they differ.
        """
        digest, self._stamp = hashlib.sha256(), self._stamped()
        for first, chunk in self.chunks():
            digest.update(chunk.data)
            self._check_vocabulary(chunk, first)
        self.sha256 = self.sha256 or digest.hexdigest()
        if digest.hexdigest() != self.sha256:
            raise UserError(f"token file {self.path} is not what was written, its SHA-256 differs: rebuild it")

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All ids, some at a time, each array with the position of its first id."""
        for first in range(0, self.count, _CHUNK):
            [chunk] = self._read(np.array([first]), min(_CHUNK, self.count - first))
            yield first, chunk

    def size(self) -> int:
        """Bytes of the file now."""
        return self._stamped()[0]

    def bytes_at(self, position: int, size: int) -> bytes:
        """Read bytes at a position, fewer at the end of the file."""
        try:
            return os.pread(self._descriptor, size, position)
        except OSError as error:
            raise self._unreadable(error) from None

    def _read(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[Any]:
        rows = np.empty((len(starts), length), self.dtype)
        width = length * self.dtype.itemsize
        data = rows.reshape(-1).view(np.uint8).data
        try:
            for number, first in enumerate(starts.tolist()):
                place = self.start + first * self.dtype.itemsize
                done = 0
                while done < width:  # a signal may have come in between
                    into = data[number * width + done : (number + 1) * width]
                    got = os.preadv(self._descriptor, [into], place + done)
                    if not got:
                        raise UserError(f"token file {self.path} was cut while it was being read: rebuild it")
                    done += got
        except OSError as error:
            raise self._unreadable(error) from None
        return rows

    def _check_vocabulary(self, ids: NDArray[Any], first: int = 0) -> None:
        if not ids.size or (int(ids.min()) >= 0 and int(ids.max()) < self.vocab_size):
            return
        wrong = (ids < 0) | (ids >= self.vocab_size)
        where = f" at position {first + int(np.argmax(wrong)):,}" if ids.ndim == 1 else ""
        raise UserError(
            f"token file {self.path} holds id {ids[wrong][0]}{where}, beyond its vocabulary of {self.vocab_size:,}:"
            " it is damaged, or was overwritten while it was being read; rebuild it"
        )

    def _stamped(self) -> tuple[int, int]:
        try:
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise self._unreadable(error) from None
        return status.st_size, status.st_mtime_ns

    def _unreadable(self, error: OSError) -> UnreadableError:
        return UnreadableError(f"cannot read token file {self.path}: {error.strerror}")
