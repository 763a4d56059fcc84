"""The console: a line for each record, and on a terminal a progress bar below them.

On a terminal a record is a short line for a person; in a file or a pipe it is a line of JSON, as in `metrics.jsonl`. Of
runs that are trained together the first that is not at its end has them.
"""

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_core import terminal
from lm_core.run.together import is_first

_FIGURES = {
    "loss_nats": "loss {:.4f}",
    "bits_per_char": "{:.3f} bits/char",
    "bits_per_token": "{:.3f} bits/token",
    "bits_per_byte": "{:.3f} bits/byte",
    "perplexity": "perplexity {:,.2f}",
    "reward": "reward {:.3f}",
    "pass_at_1": "pass@1 {:.1%}",
    "lr": "lr {:.2e}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "{:.0%} of peak",
}
_KINDS = {"train": "train", "eval": "valid", "test": "test"}


def short_line(kind: str, step: int, values: Mapping[str, Any]) -> str:
    """Short line for a terminal; the whole record is in the file."""
    figures = [form.format(values[name]) for name, form in _FIGURES.items() if name in values]
    return "  ".join([f"step {step:>7,}  {_KINDS.get(kind, kind):<5}", *figures])


def record_line(kind: str, step: int, values: Mapping[str, Any]) -> str:
    """The record as it stands in `metrics.jsonl`."""
    return json.dumps({"kind": kind, "step": step, **values}, allow_nan=False)


class Console:
    """A `Sink` on stdout and stderr.

    Args:
        start: steps taken before.
        total: the last step of the run, for the time left.
        records: whether records are printed, beside the bar.
    """

    def __init__(self, start: int, total: int, *, records: bool = True):
        self._has_records = records
        has_bar = terminal.is_terminal(sys.stderr) and is_first()
        self.line = short_line if terminal.is_terminal(sys.stdout) else record_line
        # A slow average, because the lengths of the windows vary from step to step.
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not has_bar, smoothing=0.02, dynamic_ncols=True
        )

    @property
    def records(self) -> bool:
        """Whether records are printed."""
        return self._has_records and is_first()

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Print a record."""
        if self.records:
            self._print(self.line(kind, step, values), sys.stdout)

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """Print nothing: only failures are reported."""

    def step_done(self) -> None:
        """Move the bar."""
        self.bar.update()

    def say(self, text: str) -> None:
        """Print a line to stderr without breaking the bar.

        A reader who has left (`... | head`) and a log on a full disk do not end the run.
        """
        self._print(terminal.marked(text), sys.stderr)

    def _print(self, text: str, stream: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.bar.write(terminal.visible(text), file=stream)
            stream.flush()

    def close(self, failed: bool) -> None:
        """Leave the bar as it is."""
        self.bar.close()
