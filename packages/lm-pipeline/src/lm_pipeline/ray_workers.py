"""Workers of a Ray cluster, or of a Ray that is started on this machine and ends with the block.

    call      a task; the function goes to each worker process once
    program   a task in a process of its own, in which the module runs, so that it dies with its worker

Ray starts the unit of a worker that dies again, up to `_RETRIES` times. All machines need the same packages, and for
programs the current folder of this process, under the same path. A Ray that is started here listens on the loopback
interface alone, sends nobody reports, and leaves no file.
"""

import os
import re
import runpy
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from lm_core.errors import UserError
from lm_core.terminal import say
from lm_pipeline.workers import CommandOf, environment, interruptible

U = TypeVar("U")
R = TypeVar("R")
OWN, RUNNING_HERE = "ray", "auto"
_ADDRESS = re.compile(r"(?:ray://)?\[?([^/\s\[\]]+)\]?:(\d+)")
_RETRIES = 3
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Numbers of threads that change how results are rounded: a program has them as this process does, else Ray's: 1."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else Ray, started by `uv run`, sends the current folder to the workers and makes them an environment of its own.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_PRIVATE = _QUIET | {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback; read at import
    "RAY_AUTH_MODE": "token",  # so that no other user of the machine gets in
    "RAY_AUTH_TOKEN": token_hex(32),  # for the process: Ray keeps the first one that it reads
}
_PATIENCE_SECONDS = 10.0
"""Time that a cluster has to accept a connection."""
_held: dict[bytes, Any] = {}
"""The functions that this worker process has, by the reference that they came by."""


@contextmanager
def ray_workers(on: str, count: int) -> Iterator["RayWorkers"]:
    """Workers for the block; see `lm_pipeline.workers.workers`.

    Raises:
        UserError: when Ray is not installed, `on` is not an address, or nothing answers there.
    """
    if on not in (OWN, RUNNING_HERE):
        _check_answers(on)
    with ExitStack() as stack:
        stack.enter_context(environment(_PRIVATE if on == OWN else _QUIET))
        try:
            import ray
        except ImportError:
            raise UserError(
                f"on = {on!r} needs Ray: install lm-pipeline[ray], or leave it out for this machine"
            ) from None
        own: dict[str, Any] = {}
        if on == OWN:
            folder = stack.enter_context(TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True))
            own = {"num_cpus": count or None, "include_dashboard": False, "_temp_dir": folder}
        stack.callback(ray.shutdown)
        try:
            ray.init("local" if on == OWN else on, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise UserError(
                f"on = {on!r}: no Ray cluster answers: {_first_line(error)}; if it asks for a token, set"
                " RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from None
        stack.enter_context(interruptible())  # in place of Ray's own handlers
        yield RayWorkers(ray, count)


def _check_answers(on: str) -> None:
    match = _ADDRESS.fullmatch(on)
    if not match:
        raise UserError(
            f'on = {on!r} is not a place to work: "local", "ray" (started on this machine), "auto" (a Ray that runs on'
            " it), or the address of a cluster such as ray://host:10001"
        )
    try:
        socket.create_connection((match[1], int(match[2])), _PATIENCE_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"on = {on!r}: nothing answers there ({reason}): is the cluster up, and the port right?"
        ) from None


class RayWorkers:
    """Tasks of Ray, as futures."""

    def __init__(self, ray: Any, count: int) -> None:
        self._ray = ray
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        self.calls_at_once, self.programs_at_once = count or cpus or 1, count or gpus or cpus or 1
        self._call = ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)
        # One call a process: the next program starts with nothing of it in memory.
        need = {"num_cpus": 1, "num_gpus": 1 if gpus else 0}
        self._program = ray.remote(**need, max_retries=_RETRIES, max_calls=1)(_program)
        self._running: dict[Future[Any], Any] = {}

    def caller(self, function: Callable[[U], R]) -> Callable[[U], "Future[R]"]:
        """Return what starts calls of a function."""
        held = [self._ray.put(function)]  # in a list, else Ray would hand over what it is of with every unit
        return lambda unit: self._future(self._call.remote(held, unit))

    def program(self, command_of: CommandOf[U], unit: U) -> "Future[int]":
        """Start a program."""
        threads = {name: os.environ[name] for name in _THREADS if name in os.environ}
        return self._future(self._program.remote(command_of, unit, str(Path.cwd()), threads), _printed)

    def stop(self) -> None:
        """Cancel calls, and have programs save and end."""
        for ref in [*self._running.values()]:
            self._ray.cancel(ref)  # KeyboardInterrupt there: a program saves, and ends
        wait([*self._running])

    def _future(self, ref: Any, result_of: Callable[[Any], Any] = lambda result: result) -> "Future[Any]":
        """The result of a task, or its exception as it was raised."""
        future = Future[Any]()
        self._running[future] = ref

        def finish(done: Future[Any]) -> None:
            try:
                future.set_result(result_of(done.result()))
            except self._ray.exceptions.RayTaskError as error:
                future.set_exception(error.cause)
            except self._ray.exceptions.RayError as error:
                future.set_exception(UserError(f"the Ray worker died: {_first_line(error)}"))
            except Exception as error:  # else nobody would hear of it, and wait
                future.set_exception(error)
            finally:
                self._running.pop(future)

        ref.future().add_done_callback(finish)
        return future


def _call(reference: list[Any], unit: Any) -> Any:
    """In a worker: the function that the reference is of, of the unit."""
    import ray

    (ref,) = reference
    if ref.binary() not in _held:
        _held[ref.binary()] = ray.get(ref)
    return _held[ref.binary()](unit)


def _program(command_of: CommandOf[Any], unit: Any, folder: str, threads: dict[str, str]) -> tuple[int, str]:
    """In a worker: run the module of a unit; its exit code, and what it has printed to standard error."""
    os.environ.update(threads)
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"the Ray worker on {socket.gethostname()} has no folder {folder}: use one that all machines see"
        ) from error
    module, *arguments = command_of(unit)
    sys.argv[1:] = arguments
    code, messages = 0, StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(messages):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    return code, messages.getvalue()


def _printed(result: tuple[int, str]) -> int:
    """The exit code; what the program had to say is printed here."""
    code, messages = result
    say(messages, end="")
    return code


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
