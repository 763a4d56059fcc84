"""make-data beside a run that reads what it writes: it ends with the run's process, however that ends.

    standard input --a byte--> a run stands on the shards: a mistake in the text leaves what is finished
                   --closed--> the parent has ended, or wants no more: finished units stay, and it ends

`lm_pipeline.tokens.maker` starts it.
"""

import os
import select
import signal
import time
from functools import partial
from threading import Event, Thread
from types import FrameType

from lm_pipeline.commands.make_data import PROGRAM, make_data
from lm_pipeline.program import run_program
from lm_pipeline.tokens.config import MakeDataConfig

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
"""Time that the main thread has to clear up."""


def main() -> int:
    """The program; returns its exit code."""
    signal.signal(signal.SIGTERM, _end)
    control, kept = os.dup(0), Event()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # no input is read from there
    Thread(target=_watch, args=(control, os.getppid(), kept), daemon=True).start()
    return run_program(MakeDataConfig, PROGRAM, partial(make_data, needed=kept.is_set))


def _watch(control: int, parent: int, kept: Event) -> None:
    """End this process when its parent says so, or has ended, even where a fork of that still holds the pipe."""
    while os.getppid() == parent:
        if select.select([control], [], [], _POLL_SECONDS)[0]:
            if not os.read(control, 1):
                break
            kept.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_SECONDS)  # it may wait for a pipe or the network, which no signal ends
    os._exit(128 + signal.SIGTERM)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        code = main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    os._exit(code)  # a thread that reads may never return
