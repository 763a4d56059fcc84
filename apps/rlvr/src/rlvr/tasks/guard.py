"""A limit around code of a task: what raises or hangs in it ends the command with one line.

Limit: only the main thread can be interrupted; in another one, what hangs does hang.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from lm_core.errors import UserError

SECONDS = 2.0
"""Time that a task may take for one text."""
TICKS = 20
"""Ticks in that time. They are counted, since a clock also runs while the program is stopped or the machine asleep;
processor time, which then stands still, bounds what is within one call of C, where all ticks count as one."""


class _LateError(BaseException):
    """Not an `Exception`, so that a task which catches all of those ends too."""


@contextmanager
def guarded(name: str, doing: str) -> Iterator[None]:
    """Limit the time of the block, and name the task and what it was doing where it fails.

    Raises:
        UserError: when it raises, or takes longer than `SECONDS`.
    """
    alarmed = threading.current_thread() is threading.main_thread()
    if alarmed:
        handler = signal.signal(signal.SIGALRM, _ticking())
        timer = signal.setitimer(signal.ITIMER_REAL, SECONDS / TICKS, SECONDS / TICKS)
    try:
        yield
    except _LateError:
        raise UserError(f"task {name} took longer than {SECONDS:g} seconds for {doing}: bound its loops") from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task {name} raised {type(error).__name__} for {doing}: {error}") from None
    finally:
        if alarmed:
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, handler)


def _ticking() -> Callable[..., None]:
    ticks, started = count(1), time.thread_time()

    def tick(*_: Any) -> None:
        nonlocal started
        if next(ticks) % TICKS == 0 or time.thread_time() - started >= SECONDS:
            started = time.thread_time()
            raise _LateError

    return tick
