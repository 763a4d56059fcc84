"""Work that the training loop does not wait for: at most one piece of it, on a thread of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread


@dataclass(frozen=True)
class Done:
    """A piece of work that has ended: that of `step`, and what it raised, if anything."""

    step: int
    error: BaseException | None


class Writer:
    """Does one piece of work at a time. A thread ends with its work, and Python's exit waits for it."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._done: Done | None = None

    def start(self, step: int, work: Callable[[], object]) -> None:
        """Start the work of `step`; the work before it must have been collected."""
        assert self._thread is None, "the work before this one has not been collected"
        self._thread = Thread(target=self._run, args=(step, work), name=f"save of step {step}")
        self._thread.start()

    def collect(self, *, wait: bool) -> Done | None:
        """Return the work that has ended since the last call, each once; `wait` for the current one."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread, done, self._done = None, self._done, None
        return done

    def _run(self, step: int, work: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:
            error = raised
        self._done = Done(step, error)
