"""Where a run's records go: `metrics.jsonl` always; the console as JSON lines, and on a terminal a progress bar.

A record is one flat JSON object with `kind` and `step`. On a terminal the bar shows the training records, so only the
others are printed; in a file or a pipe there is no bar and every record is a line.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_core.errors import UserError
from lm_core.run.files import write_whole

TIMING_FIELDS = frozenset({"seconds", "tokens_per_second"})
"""Fields of a record that differ between two runs of the same config."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, up to the first line that a crash has torn."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        records.append(record)
    return records


class RunLog:
    """Writes records to the metrics file and the console.

    Args:
        path: the metrics file.
        start: the step from which the run goes on; records of later steps, left by a killed run, are dropped.
        total: the last step of the run, for the time left.
    """

    def __init__(self, path: Path, start: int, total: int):
        try:
            kept = [record for record in read_records(path) if record["step"] <= start] if path.exists() else []
            write_whole(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
            self.file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        on_terminal = sys.stderr.isatty()
        self.prints_training = not (on_terminal and sys.stdout.isatty())
        self.reader_left = False
        # A slow average, because the lengths of the windows vary from step to step.
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not on_terminal, smoothing=0.02, dynamic_ncols=True
        )

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log one record."""
        line = json.dumps({"kind": kind, "step": step, **values}, allow_nan=False)
        self.file.write(line + "\n")
        self.file.flush()
        if kind == "train":
            self.bar.set_postfix_str(
                f"loss {values['loss_nats']:.3f}, {values['tokens_per_second']:,.0f} tokens/s", refresh=False
            )
        if kind != "train" or self.prints_training:
            self._print(line)

    def _print(self, line: str) -> None:
        """To the console; a reader who has left (`... | head`) does not end the run."""
        try:
            if not self.reader_left:
                self.say(line, sys.stdout)
        except BrokenPipeError:
            self.reader_left = True

    def step_done(self) -> None:
        """Move the bar."""
        self.bar.update()

    def say(self, text: str, stream: Any = None) -> None:
        """Print a line without breaking the bar; to stderr unless told otherwise."""
        self.bar.write(text, file=stream or sys.stderr)
        (stream or sys.stderr).flush()

    def close(self) -> None:
        """Close the file and leave the bar as it is."""
        self.bar.close()
        self.file.close()
