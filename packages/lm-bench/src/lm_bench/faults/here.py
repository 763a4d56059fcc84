"""A trial in this process, for the rows that are about files and numbers; nothing of it stays behind."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from lm_bench.faults import harm
from lm_bench.faults.server import TASKS
from lm_bench.faults.trial import Trial
from lm_core.run import session


class _LateError(BaseException):
    """A trial hangs."""


def run(task: str, trial: Trial, seconds: float) -> int | None:
    """The exit code of a trial, its output in <run folder>.said; None for one that took longer than `seconds`."""
    with (
        Path(f"{trial.folder}.said").open("a", encoding="utf-8") as said,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        _restored(),
        _alarm(seconds),
    ):
        try:
            return TASKS[task](trial)
        except _LateError:
            return None


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Undo what `harm.prepare` does to the process for the trials of these rows; the other rows fork a child."""
    before = {name: getattr(session, name) for name in ("Run", "write_report")}
    limit = resource.getrlimit(resource.RLIMIT_AS)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(session, name, value)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        harm.audit("")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
