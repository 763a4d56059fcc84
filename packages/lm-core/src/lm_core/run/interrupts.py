"""Ctrl-C and SIGTERM: the first asks the run to save and stop after the step in hand, a second one ends it at once.

Nothing happens inside the handler but a note: saving there could tear whatever it interrupted.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which `requested` says whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os.write(sys.stderr.fileno(), b"\nstopped at once; the last saved checkpoint is intact\n")
            os._exit(128 + number)
        self.requested = True
        os.write(sys.stderr.fileno(), b"\nstopping after this step; once more to stop at once\n")
