"""Log of a run's records: to `metrics.jsonl` always, then to the console and every other sink.

A record is one JSON object with `kind` and `step`. A disk that fails holds up neither training nor the other sinks:
what could not be written waits for the next record.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from lm_core.disk.files import flush_file, write_whole
from lm_core.disk.untrusted import open_inside
from lm_core.errors import UserError
from lm_core.run.sinks.console import Console
from lm_core.run.sinks.sink import Sink

LONGEST_LINE = 1 << 24
"""Bytes of a line of the metrics file; a longer one is not a record, and ends the reading."""
TIMING_FIELDS = frozenset({"seconds", "tokens_per_second", "mfu", "sampling_seconds", "sampling_share"})
"""Fields of a record that differ between two runs of the same config."""
RESUME = "resume"
"""Kind of the records that say what a resume has changed of the run (`lm_core.run.resume`)."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file. Other lines are skipped, such as the torn last line of a run that was killed."""
    return list(each_record(path))


def each_record(path: Path) -> Iterator[dict[str, Any]]:
    """The same one by one, of a file that need not fit in memory."""
    return (record for record in _lines(path) if record is not None)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records, and how many whole lines are none."""
    lines = list(_lines(path))
    records = [record for record in lines if record is not None]
    return records, len(lines) - len(records)


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Each record, and None for each whole line that is none."""
    with open_inside(path, path.parent) as file:
        while line := file.readline(LONGEST_LINE):
            whole = line.endswith(b"\n")
            if not whole and len(line) == LONGEST_LINE:
                break  # a hole in the file, or worse; nothing of ours is so long
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield record
            elif whole:
                yield None


class Digest:
    """SHA-1 over records in order, without the fields that measure time: that of two equal runs is equal."""

    def __init__(self) -> None:
        self._sha1, self._records = hashlib.sha1(), 0

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """Digest of records."""
        digest = cls()
        for record in records:
            digest.add(record)
        return digest

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the next record."""
        self._sha1.update(record_bytes({key: record[key] for key in record if key not in TIMING_FIELDS}))
        self._records += 1

    @property
    def metadata(self) -> dict[str, Any]:
        """The number of records, and the digest, as a checkpoint has them."""
        return {"records": self._records, "sha1": self._sha1.hexdigest()}


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """A record as it stands in the file."""
    return json.dumps(record).encode() + b"\n"


class RecordFile:
    """Lines of JSON, added at the end of a file; what a failing disk does not take waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self._doubtful = False
        """Whether a flush has failed: the system may have forgotten what it did not write, and call it written."""
        self._lock = Lock()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record.

        Raises:
            OSError: when it cannot be written now; it waits for the next call.
            ValueError: for a number that is not finite.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock:
            self._waiting += line
            self._write()

    def flush(self) -> None:
        """Flush everything to disk; for any thread.

        Raises:
            OSError: when it cannot be done; nothing is lost.
        """
        with self._lock:
            self._write()
            if self._doubtful:
                write_whole(self.path, self.path.read_bytes())
                self._file.close()
                self._file = self.path.open("ab", buffering=0)
            self._doubtful = True
            flush_file(self._file.fileno())
            self._doubtful = False

    def close(self) -> None:
        """Write what waits, and close.

        Raises:
            OSError: when it could not be written.
        """
        try:
            with self._lock:
                self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        while self._waiting:
            written = self._file.write(self._waiting)  # of a disk that is nearly full, a part of it
            self._waiting = self._waiting[written:]


def close_all(sinks: Iterable[Sink], failed: bool) -> None:
    """Close sinks that no log has, for what goes wrong before there is one."""
    for sink in sinks:
        with contextlib.suppress(Exception):  # what made this necessary is reported
            sink.close(failed)


class RunLog:
    """Writes records to the metrics file and tells them to the sinks.

    Only the metrics file is needed: a sink that raises is reported once on stderr, and the run continues.

    Args:
        path: the metrics file.
        start: the step from which the run resumes; records of later steps, left by a killed run, are dropped.
        total: the last step of the run, for the time left.
        sinks: where else records go, beside the console; they are closed with the log, also where it cannot be made.
        console: whether the console prints the records too; the bar and what fails it shows always.

    Raises:
        UserError: when the file cannot be written.
    """

    def __init__(self, path: Path, start: int, total: int, sinks: Sequence[Sink] = (), *, console: bool = True):
        records, others = list[dict[str, Any]](), 0
        try:
            with contextlib.suppress(FileNotFoundError):
                records, others = _read(path)
            kept = [record for record in records if record["step"] <= start]
            write_whole(path, b"".join(map(record_bytes, kept)))
            self.file = RecordFile(path)
            self._digest = Digest.of(kept)
        except OSError as error:
            close_all(sinks, failed=True)
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        self.console = Console(start, total, records=console)
        self.sinks: list[Sink] = [self.console, *sinks]
        self.failing: list[Sink] = []
        if others:
            self.say(f"{path}: lines skipped that are not records: {others}")
        self.behind = False
        """Whether records wait for the disk."""
        self._last_resume = next((record for record in reversed(kept) if record.get("kind") == RESUME), None)

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log one record."""
        self._append({"kind": kind, "step": step, **values})
        self._tell(lambda sink: sink.record(kind, step, values))

    def resumed(self, step: int, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Log what a resume after `step` changes; once, however often the run is resumed there. Sinks do not get it."""
        record = {"kind": RESUME, "step": step, **values}
        last = self._last_resume
        there = last if last and last["step"] == step else {**record, **{key: {} for key in values}}
        if record != there:
            self._append(record)
            self._last_resume = record

    def metadata(self) -> dict[str, Any]:
        """Metadata on the log for a checkpoint: number of records, and a digest of them."""
        return self._digest.metadata

    def _append(self, record: Mapping[str, Any]) -> None:
        step = record["step"]
        try:
            self.file.append(record)
        except OSError as error:
            if not self.behind:
                self.say(f"step {step}: not logged in {self.file.path.name} ({error.strerror}); it is retried")
            self.behind = True
        else:
            self.behind = False
        self._digest.add(record)

    def flush(self) -> None:
        """Flush all records to disk; for any thread.

        Raises:
            OSError: when it cannot be done.
        """
        self.file.flush()

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """Say that a checkpoint is proven on disk; see `Sink.saved`."""
        self._tell(lambda sink: sink.saved(metadata, step, best))

    def step_done(self) -> None:
        """Move the bar."""
        self.console.step_done()

    def say(self, text: str) -> None:
        """Print a line to stderr without breaking the bar."""
        self.console.say(text)

    def remark(self, text: str) -> None:
        """Print a line about the records, where they are printed."""
        if self.console.records:
            self.say(text)

    def close(self, failed: bool = False) -> None:
        """Close the file and the sinks, the console last so that the others can still be complained about."""
        try:
            self.file.close()
        except OSError as error:
            self.say(f"the last records could not be written to {self.file.path}: {error.strerror}")
        self.sinks.reverse()
        self._tell(lambda sink: sink.close(failed))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def _tell(self, what: Callable[[Sink], None]) -> None:
        for sink in self.sinks:
            try:
                what(sink)
            except Exception as error:
                if sink not in self.failing:
                    self.failing.append(sink)
                    reason = " ".join(str(error).split()) or type(error).__name__
                    self.say(f"{type(sink).__name__}: {reason}; the run continues")


class SilentLog(RunLog):
    """The log of the ranks that do not write: the first has that of the run."""

    def __init__(self) -> None:
        self.console = Console(0, 0, records=False)
        self.console.bar.disable = True
        self.sinks, self.failing = [], []

    def _append(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def resumed(self, step: int, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Nothing."""

    def metadata(self) -> dict[str, Any]:
        """Nothing: this rank saves no checkpoint."""
        return {}

    def flush(self) -> None:
        """Nothing."""

    def step_done(self) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self, failed: bool = False) -> None:
        """Nothing."""
