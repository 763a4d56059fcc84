"""Units of work on workers: here, or on a Ray cluster, behind the same two functions.

    with workers("ray", 2) as pool:
        for unit, result in pool.calls(function, units): ...       # in the order of the units
        for unit, code in pool.programs(command_of, units): ...    # as they end

    units --pulled by a thread, submitted a few at a time--> threads here | tasks of Ray --> (unit, result)

A call is a function of its unit. A program is a module of Python with arguments, in a process of its own: it gives an
exit code and files, and resumes from those when it is started again. On Ray the unit of a worker that dies is started
again (`lm_pipeline.ray_workers`); here no thread dies, and the exit code is that of a program that was killed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any, Protocol, TypeVar

from lm_core.run.interrupts import stop_signals

LOCAL = "local"
U = TypeVar("U")
R = TypeVar("R")
CommandOf = Callable[[U], Sequence[str]]
"""The module that is the program of a unit, and its arguments; asked for whenever the unit is started."""
_END = object()


class Engine(Protocol):
    """What does the work."""

    calls_at_once: int
    programs_at_once: int

    def caller(self, function: Callable[[U], R]) -> Callable[[U], "Future[R]"]:
        """Return what starts calls of a function."""

    def program(self, command_of: CommandOf[U], unit: U) -> "Future[int]":
        """Start the program of a unit; gives its exit code."""

    def stop(self) -> None:
        """Forget calls that have not started, and have programs save and end; returns when all have ended."""


@contextmanager
def workers(on: str = LOCAL, count: int = 0) -> Iterator["Workers"]:
    """Workers for the block; what they still do when it is left is stopped: programs save, and end.

    Args:
        on: where: "local", "ray" (started on this machine for the block), or the address of a Ray cluster.
        count: units at a time; 0: one here, and on Ray as many as there are GPUs for programs, or CPUs.

    Raises:
        UserError: when Ray is not installed or cannot be reached.
    """
    with nullcontext(_Local(count or 1)) if on == LOCAL else _ray(on, count) as engine:
        try:
            yield Workers(engine)
        finally:
            engine.stop()


class Workers:
    """Hands units to what does them, a few at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.programs_at_once = engine.programs_at_once

    def calls(self, function: Callable[[U], R], units: Iterable[U]) -> Iterator[tuple[U, R]]:
        """Each unit with `function(unit)`, in order.

        Raises:
            Exception: that of the first unit that fails, or of `units`, when all before it have been given.
        """
        most = 2 * self._engine.calls_at_once  # so that no worker waits for its next unit
        return _results(self._engine.caller(function), units, most, in_order=True)

    def programs(self, command_of: CommandOf[U], units: Iterable[U]) -> Iterator[tuple[U, int]]:
        """Each unit with the exit code of its program, as they end; a unit is asked for when there is room for it."""
        return _results(partial(self._engine.program, command_of), units, self._engine.programs_at_once, in_order=False)


def _results(
    submit: Callable[[U], "Future[R]"], units: Iterable[U], most: int, *, in_order: bool
) -> Iterator[tuple[U, R]]:
    started: dict[Future[R], U] = {}
    source, puller = iter(units), ThreadPoolExecutor(1)  # a thread: it may wait for a pipe or the network
    coming: Future[Any] | None = None
    is_open, mistake = True, None
    try:
        while is_open or started:
            if is_open and coming is None and len(started) < most:
                coming = puller.submit(next, source, _END)
            awaited = [*started][:1] if in_order else [*started]
            done, _ = wait([*awaited, *([coming] if coming else [])], return_when=FIRST_COMPLETED)
            if coming in done:
                mistake = coming.exception()
                is_open = mistake is None and coming.result() is not _END
                if is_open:
                    started[submit(coming.result())] = coming.result()
                coming = None
            for future in [future for future in awaited if future in done]:
                yield started.pop(future), future.result()
        if mistake:
            raise mistake
    finally:
        puller.shutdown(wait=False, cancel_futures=True)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def interruptible() -> Iterator[None]:
    """Have every signal to stop raise KeyboardInterrupt, so that what the block has started is ended."""
    before = {number: signal.signal(number, _interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Local:
    """Threads of this process; each program is a child, and writes its messages to our standard error."""

    def __init__(self, count: int) -> None:
        self.calls_at_once = self.programs_at_once = count
        self._pool = ThreadPoolExecutor(count)
        self._children: set[subprocess.Popen[bytes]] = set()

    def caller(self, function: Callable[[U], R]) -> Callable[[U], "Future[R]"]:
        return lambda unit: self._pool.submit(function, unit)

    def program(self, command_of: CommandOf[U], unit: U) -> "Future[int]":
        command = [sys.executable, "-m", *command_of(unit)]
        # Ctrl-C in a terminal reaches this process alone, which stops them all once.
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        self._children.add(child)
        return self._pool.submit(self._code_of, child)

    def stop(self) -> None:
        try:
            self._end()
        except KeyboardInterrupt:  # a second one: they quit at once
            self._end()
            raise

    def _end(self) -> None:
        for child in [*self._children]:
            child.send_signal(signal.SIGTERM)
        self._pool.shutdown(cancel_futures=True)

    def _code_of(self, child: subprocess.Popen[bytes]) -> int:
        code = child.wait()
        self._children.discard(child)
        return code


def _ray(on: str, count: int) -> AbstractContextManager[Engine]:
    from lm_pipeline.ray_workers import ray_workers

    return ray_workers(on, count)
