"""TensorBoard: event files in the run folder, written by the package `tensorboard` alone.

Only its framing of records and its messages are used, with a plain file: its event writer would load TensorFlow where
that is installed, and waits for ever once its own thread has met a full disk.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_core.disk.files import make_folder
from lm_core.errors import UserError
from lm_core.run.sinks.sink import flat_metrics


class TensorBoardSink:
    """A `Sink` that writes scalars under their `flat_metrics` names to `folder`/tensorboard.

    A resumed run begins a new event file that tells TensorBoard to forget the steps after `start`, which it repeats.

    Args:
        folder: the run folder.
        start: the step from which the run resumes.

    Raises:
        UserError: when `tensorboard` is not installed or the file cannot be made.
    """

    def __init__(self, folder: Path, start: int):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except ImportError:
            raise UserError("tensorboard is not installed: pip install tensorboard") from None
        self.messages, self.summaries = event_pb2, summary_pb2
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        path = folder / "tensorboard" / name
        try:
            make_folder(path.parent, within=folder)
            self.writer = RecordWriter(path.open("xb"))
            self._write(file_version="brain.Event:2")
            if start:
                self._write(step=start + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers of a record; they are in the file when this returns, as they are in `metrics.jsonl`."""
        scalars = [
            self.summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in flat_metrics(kind, values).items()
        ]
        self._write(step=step, summary=self.summaries.Summary(value=scalars))

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """TensorBoard has no place for checkpoints."""

    def close(self, failed: bool) -> None:
        """Close the event file."""
        self.writer.close()

    def _write(self, **fields: Any) -> None:
        self.writer.write(self.messages.Event(wall_time=time.time(), **fields).SerializeToString())
        self.writer.flush()
