"""`samples.txt`: the texts that a run wrote of itself, each under a line that names its step."""

import contextlib
import re
from pathlib import Path

from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import append_regular, read_regular

_HEADING = re.compile(rb"^--- step (\d+)\b", re.MULTILINE)
_LONGEST = 1 << 28


class Samples:
    """The file.

    Args:
        path: where it is, or will be.
        start: the step from which the run resumes: samples of later steps, left by a killed run, are dropped.
    """

    def __init__(self, path: Path, start: int) -> None:
        self.path, self._last = path, 0
        with contextlib.suppress(OSError):  # what cannot be written is reported when a sample is added
            data = read_regular(path, _LONGEST)
            for found in _HEADING.finditer(data):
                if int(found[1]) > start:
                    write_whole(path, data[: found.start()])
                    break
                self._last = int(found[1])

    def has(self, step: int) -> bool:
        """Whether there is one of a step, written or tried."""
        return self._last == step

    def add(self, step: int, heading: str, text: str) -> None:
        """Add one.

        Raises:
            OSError: when it cannot be written.
        """
        self._last = step
        append_regular(self.path, f"--- step {step}, {heading} ---\n{text}\n".encode())
