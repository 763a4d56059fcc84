"""The console: a line for each record, and on a terminal a progress bar.

On a terminal the bar shows the training records, so only the others are printed; in a file or a pipe there is no bar
and every record is a line.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_core import terminal
from lm_core.run.sinks.sink import flat_metrics

LineFormat = Callable[[str, int, Mapping[str, Any]], str]


def record_line(kind: str, step: int, values: Mapping[str, Any]) -> str:
    """The record as it stands in `metrics.jsonl`."""
    return json.dumps({"kind": kind, "step": step, **values}, allow_nan=False)


def metrics_line(kind: str, step: int, values: Mapping[str, Any]) -> str:
    """`step`, `kind` and the record's `flat_metrics`, as one JSON object without nesting."""
    return json.dumps({"step": step, "kind": kind, **flat_metrics(kind, values)}, allow_nan=False)


class Console:
    """A `Sink` on stdout and stderr.

    Args:
        start: steps taken before.
        total: the last step of the run, for the time left.
        line: how a record is printed.
    """

    def __init__(self, start: int, total: int, line: LineFormat = record_line):
        on_terminal = terminal.is_terminal(sys.stderr)
        self.line = line
        self.prints_training = not (on_terminal and terminal.is_terminal(sys.stdout))
        # A slow average, because the lengths of the windows vary from step to step.
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not on_terminal, smoothing=0.02, dynamic_ncols=True
        )

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Print a record, or show it in the bar."""
        if kind == "train":
            self.bar.set_postfix_str(
                f"loss {values['loss_nats']:.3f}, {values['tokens_per_second']:,.0f} tokens/s", refresh=False
            )
        if kind != "train" or self.prints_training:
            self.say(self.line(kind, step, values), sys.stdout)

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """Nothing is said of what goes well."""

    def step_done(self) -> None:
        """Move the bar."""
        self.bar.update()

    def say(self, text: str, stream: Any = None) -> None:
        """Print a line without breaking the bar; to stderr unless told otherwise.

        A reader who has left (`... | head`) and a log on a full disk do not end the run.
        """
        with contextlib.suppress(OSError, ValueError):
            self.bar.write(terminal.visible(text), file=stream or sys.stderr)
            (stream or sys.stderr).flush()

    def close(self, failed: bool) -> None:
        """Leave the bar as it is."""
        self.bar.close()
