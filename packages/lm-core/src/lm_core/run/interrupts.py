"""Ctrl-C, SIGTERM and SIGHUP: the first asks the run to save and stop after the current step, a second quits at once.

    SIGINT, SIGTERM    the first asks; the second ends
    SIGHUP             asks, and never ends: the kernel, the shell and a launcher may each send one
    an output pipe that is full and that nobody reads    is given up, so that the run comes to its save

Nothing happens inside the handler but a note and that last thing: saving there could tear whatever it interrupted. The
answer, and the end at the second signal, are a thread's business: Python runs a handler only between two of its own
instructions, and a step of a large model may be one of them for many seconds.
"""

import os
import signal
import time
from threading import Thread
from types import FrameType, TracebackType
from typing import Any, Self

from lm_core import terminal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 1.0
"""Seconds that a slow reader of the output has to make room, once the run is to stop."""


class Interrupts:
    """A context in which `requested` says whether somebody has asked the run to stop.

    Args:
        echo: for so many seconds after the first signal the same one again counts as its echo: a launcher such as uv
            passes on to its child what the terminal, or a service manager, has sent to both.
    """

    def __init__(self, echo: float = 0.25) -> None:
        self.requested = False
        self._echo = echo
        self._before: dict[int, Any] = {}
        self._wakeup = self._write_end = -1

    def __enter__(self) -> Self:
        read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        # The interpreter writes the number of every signal there, whatever it is about.
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        Thread(target=_watch, args=(read_end, self._echo), name="second signal", daemon=True).start()
        self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        if any(outer.requested for outer in self._outer()):  # else as it is: a signal may have come meanwhile
            self.requested = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write_end)

    def _outer(self) -> set["Interrupts"]:
        """The context that this one stands in, which is to know what is asked here: that of a series of runs."""
        owners = (getattr(handler, "__self__", None) for handler in self._before.values())
        return {owner for owner in owners if isinstance(owner, Interrupts)}

    def _ask(self) -> None:
        self.requested = True
        for outer in self._outer():
            outer._ask()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._ask()
        # What this has interrupted may be a write that waits for a reader; it is tried again when this returns.
        terminal.give_up_stuck_outputs(_PATIENCE)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a run to save and stop. A SIGHUP that is ignored (`nohup`) stays ignored."""
    return [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def _watch(read_end: int, echo: float) -> None:
    """Answer the first signal, and end the process at the second; returns when the other end is closed."""
    first, heard_at = 0, 0.0
    while heard := os.read(read_end, 1):
        number = heard[0]
        if number == signal.SIGHUP:
            terminal.say_without_waiting("terminal hung up: finishing this step, then saving")
        elif number in _SIGNALS and not first:
            first, heard_at = number, time.monotonic()
            terminal.say_without_waiting("finishing this step, then saving; press Ctrl-C again to quit now")
        elif number in _SIGNALS and (number != first or time.monotonic() >= heard_at + echo):
            terminal.say_without_waiting("quit; the last checkpoint is intact")
            os._exit(128 + number)
    os.close(read_end)
