"""Token shards: one long sequence of ids in a folder, which may be read while it is written.

    STREAM/job                      the fingerprint of the job that writes it: which stream this is
    STREAM/000003.train.npy(.json)  a shard: a token file, for each split that unit 3 has ids for
    STREAM/000003.json              the record of unit 3, written after its shards, which names their splits
    STREAM/stream.json              written last, when the stream is complete: its totals

    ShardedIds.rows(starts, length) --wait until they are there--> index --> shards --TokenIds.rows--> [B, length]

The ids are those of the shards one after the other. A shard is checked in whole (size, SHA-256, vocabulary) when it
is reached for the first time. A living writer holds a lock on the folder (`locked`), so one that has died is noticed.

Limit: skipping a bad shard moves up what follows it. A run that is resumed after a shard has become bad, or has been
repaired, counts its windows in the stream as it is then.
"""

import errno
import fcntl
import json
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lm_core.config import Config
from lm_core.data.token_file import TokenFile, TokenMetadata
from lm_core.disk.untrusted import may_pass, read_regular
from lm_core.errors import UnreadableError, UserError
from lm_core.terminal import say

JOB, COMPLETE = "job", "stream.json"
POLL_SECONDS = 0.5
_SAID_AFTER = 2.0
"""Seconds of waiting after which a line says so."""
_MOST_OPEN = 16
"""Shards that are kept open."""
_LONGEST_JOB, _LONGEST_RECORD = 1 << 10, 1 << 24
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_TRIES = 5
"""A reader that asks whether there is a writer holds the lock for a moment."""


class StreamRecord(Config):
    """Content of `stream.json`: the stream is complete."""

    format: Literal["token stream 1"] = "token stream 1"
    """Version of the layout."""
    source: str
    """The fingerprint of the job."""
    units: int = Field(ge=0)
    """Number of units."""
    tokens: Mapping[str, int]
    """Number of ids of each split."""
    documents: Mapping[str, int]
    """Number of documents of each split."""
    bytes: Mapping[str, int]
    """UTF-8 bytes of the text of each split."""


def record_path(folder: Path, unit: int) -> Path:
    """Path of the record of a unit."""
    return folder / f"{unit:06d}.json"


def shard_path(folder: Path, unit: int, split: str) -> Path:
    """Path of the shard of a unit and a split."""
    return folder / f"{unit:06d}.{split}.npy"


def is_stream(path: str | Path) -> bool:
    """Whether this is a folder of token shards."""
    return (Path(path) / JOB).is_file()


def read_stream_record(folder: Path) -> StreamRecord | None:
    """The record of a complete stream; None where there is none yet.

    Raises:
        UserError: when it is damaged or cannot be read.
    """
    data = _read(folder / COMPLETE, _LONGEST_RECORD)
    try:
        return None if data is None else StreamRecord.parse(json.loads(data), str(folder / COMPLETE))
    except (ValueError, RecursionError):
        raise UserError(
            f"{folder / COMPLETE} is not the record of a stream: run make-data again to restore it"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder that is written to against other processes; the lock ends with the process.

    Raises:
        UserError: when another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise UserError(f"output {folder} is being written by another process: wait for it") from None
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        yield
    finally:
        os.close(descriptor)


def is_written(folder: Path) -> bool:
    """Whether a living process holds the lock of a folder; True as well where the file system has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return True
    finally:
        os.close(descriptor)
    return False


class ShardedIds:
    """The ids of one split of a stream, as one sequence that grows.

    Args:
        folder: of the stream.
        split: "train" or "validation".
        fingerprint: of the tokenizer whose ids are expected; any when not given.
        skip_bad: leave out a shard that is missing, cut or corrupt, with a line, instead of raising.

    Raises:
        UserError: when the folder holds no stream.
    """

    def __init__(self, folder: Path, split: str, fingerprint: str | None = None, *, skip_bad: bool = False) -> None:
        self.folder, self.split, self.fingerprint, self.skip_bad = folder, split, fingerprint, skip_bad
        job = _read(folder / JOB, _LONGEST_JOB)
        if job is None:
            raise UserError(f"{folder} holds no token shards: make them with transformerlm-make-data --shards")
        self.job = job.decode(errors="replace")
        self.first: TokenMetadata | None = None
        """Metadata of the first shard."""
        self._record: StreamRecord | None = None
        self._units = 0
        """Units that are in the index."""
        self._ends = [0]
        """Ids up to the beginning and up to the end of each shard in the index."""
        self._shards: list[tuple[Path, str]] = []
        """Path and SHA-256 of each of them."""
        self._open: dict[int, TokenFile] = {}

    def __len__(self) -> int:
        """Number of ids that are there, as far as has been asked for."""
        return self._ends[-1]

    @property
    def total(self) -> int | None:
        """Number of ids of the whole stream, once it is known."""
        return len(self) if self._record and self._units >= self._record.units else None

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> NDArray[Any]: ...
    def __getitem__(self, key: int | slice) -> int | NDArray[Any]:
        """An id, or those of a slice; of what is there."""
        places = range(len(self))[key]
        if isinstance(places, int):
            return int(self.rows(np.array([places]), 1)[0, 0])
        row: NDArray[Any] = self.rows(np.array(places, np.int64), 1)[:, 0]
        return row

    def wait(self, count: int) -> None:
        """Wait until `count` ids are there, or the stream is complete.

        Raises:
            UserError: when a shard is missing, cut or corrupt, or the writer has ended before it was complete.
        """
        began, has_said = time.monotonic(), False
        while len(self) < count and self.total is None:
            if self._take():
                continue
            if not is_written(self.folder):
                if self._take():  # it may have ended just now
                    continue
                raise UserError(
                    f"{self.folder} ends after {self._units:,} units without being complete, and no process writes it:"
                    " run the command that makes it again, which resumes"
                )
            if not has_said and time.monotonic() - began > _SAID_AFTER:
                say(f"waiting for {shard_path(self.folder, self._units, self.split)}")
                has_said = True
            time.sleep(POLL_SECONDS)

    def rows(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[Any]:
        """The `length` ids from each of `starts` [B] on, across the ends of shards: [B, length].

        Raises:
            UserError: as `wait`, and when a shard has changed since it was checked.
            IndexError: past the end of a complete stream.
        """
        if len(starts):
            self.wait(int(starts.max()) + length)
        if len(starts) and int(starts.max()) + length > len(self):
            raise IndexError(f"{self.folder} has {len(self):,} ids")
        rows = np.empty((len(starts), length), self.first.dtype if self.first else np.uint16)
        places = np.searchsorted(self._ends, starts, "right") - 1
        inside = np.array(self._ends)[places + 1] >= starts + length
        for place in np.unique(places[inside]):
            chosen = inside & (places == place)
            rows[chosen] = self._shard(place).tokens.rows(starts[chosen] - self._ends[place], length)
        for number in np.flatnonzero(~inside):
            rows[number] = self._across(int(starts[number]), length)
        return rows

    def _across(self, start: int, length: int) -> NDArray[Any]:
        parts, end = [], start + length
        while start < end:
            place = bisect_right(self._ends, start) - 1
            stop = min(end, self._ends[place + 1])
            first = np.array([start - self._ends[place]])
            parts.append(self._shard(place).tokens.rows(first, stop - start)[0])
            start = stop
        return np.concatenate(parts)

    def _shard(self, place: int) -> TokenFile:
        if place not in self._open:
            path, digest = self._shards[place]
            file = TokenFile.open(path)
            if file.metadata.sha256 != digest:
                raise UserError(f"token file {path} is another one than when it was first read: start again")
            self._keep(place, file)
        return self._open[place]

    def _keep(self, place: int, file: TokenFile) -> None:
        self._open[place] = file
        if len(self._open) > _MOST_OPEN:
            del self._open[next(iter(self._open))]

    def _take(self) -> bool:
        """Put the next unit into the index, or find that there is none any more; whether there was either."""
        if self._record is None:
            self._record = read_stream_record(self.folder)  # before the units, so that those it counts are there
            if self._record and self._record.source != self.job:
                raise UserError(f"{self.folder / COMPLETE} is of another job than the shards: run make-data again")
        if self._record and self._units >= self._record.units:
            return True
        try:
            splits = self._splits(self._units)
            if splits is None:
                return False
            file = self._checked(self._units) if self.split in splits else None
        except UnreadableError:
            raise
        except UserError as error:
            if self._record is None and _read(record_path(self.folder, self._units), _LONGEST_RECORD) is None:
                return False  # its writer takes the unit away, for a mistake that only it can name
            if not self.skip_bad:
                raise UserError(f"{error}; to train without it, set skip_bad_shards") from None
            say(f"warning: skipped a shard: {error}")
            file = None
        if file:
            self._check_stream(file)
            self._shards.append((file.path, file.metadata.sha256))
            self._ends.append(self._ends[-1] + len(file))
            self._keep(len(self._shards) - 1, file)
        self._units += 1
        return True

    def _splits(self, unit: int) -> list[str] | None:
        """Splits of a unit; None where it is not there yet."""
        path = record_path(self.folder, unit)
        data = _read(path, _LONGEST_RECORD)
        if data is None and self._record:
            raise UserError(f"{path} is missing from a complete stream: restore it, or make the stream again")
        try:
            return None if data is None else [str(split) for split in json.loads(data)["splits"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path} is damaged: run make-data again to repair the stream") from None

    def _checked(self, unit: int) -> TokenFile:
        file = TokenFile.open(shard_path(self.folder, unit, self.split))
        if file.metadata.source != self.job:
            raise UserError(f"token file {file.path} is of another job than {self.folder / JOB}: make it again")
        return file

    def _check_stream(self, file: TokenFile) -> None:
        """All shards have one tokenizer, and it is the expected one."""
        expected = self.first.fingerprint if self.first else self.fingerprint
        if expected is not None and file.metadata.fingerprint != expected:
            TokenFile.open(file.path, expected, verify=False)  # says so
        self.first = self.first or file.metadata


@dataclass(frozen=True)
class TokenStream:
    """An open stream, as a `lm_core.data.token_file.TokenFile` is an open file."""

    path: Path
    tokens: ShardedIds
    metadata: TokenMetadata
    """That of the first shard, with the job as the hash: it stands for all that the ids depend on."""

    @classmethod
    def open(
        cls, path: str | Path, split: str, fingerprint: str | None = None, *, skip_bad: bool = False
    ) -> "TokenStream":
        """Open one split of a stream, waiting for its first shard.

        Raises:
            UserError: as `ShardedIds` and its `wait`; when a complete stream has no ids of the split.
        """
        ids = ShardedIds(Path(path), split, fingerprint, skip_bad=skip_bad)
        ids.wait(1)
        if ids.first is None or not len(ids):
            raise UserError(f"{path} has no shards of the split {split}: it was made without")
        update = {"sha256": ids.job, "source": ids.job, "pair": ids.job}
        return cls(Path(path), ids, ids.first.model_copy(update=update))

    def __len__(self) -> int:
        """Number of ids that are there, as far as has been asked for."""
        return len(self.tokens)


def _read(path: Path, most: int) -> bytes | None:
    """Content of a small file; None where it is not there."""
    try:
        return read_regular(path, most)
    except FileNotFoundError:
        return None
    except OSError as error:
        kind = UnreadableError if may_pass(error) else UserError
        raise kind(f"cannot read {path}: {error.strerror}") from None
