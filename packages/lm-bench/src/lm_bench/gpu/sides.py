"""Where a job runs: in a process of its own, or in this one.

A side is started, gets ready (builds, compiles), works a block at a time when it is told to, and ends.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from lm_bench.gpu.jobs import Job
from lm_core.config import Config

LAST_LINES = 6
"""Of what a process that failed said: the end of its traceback."""


class SideError(Exception):
    """One side cannot be measured; the others continue."""


class Report(Config):
    """Result of a block."""

    figure: float
    losses: tuple[float, ...]
    ids: tuple[int, ...]
    note: str
    peak_gib: float | None
    """The most that torch allocated on the card."""
    tf32: bool


class Kernel(Config):
    """A kernel that the card ran in a block."""

    name: str
    calls: int
    microseconds: float


class Profile(Config):
    """The kernels of a block that take the most time, the longest first."""

    kernels: tuple[Kernel, ...]


class Side(Protocol):
    """One job, wherever it runs. All methods raise `SideError`."""

    job: Job

    def ready(self, patience: float) -> None:
        """Wait until it can be timed, at most `patience` seconds."""

    def block(self, patience: float) -> Report:
        """Let it work."""

    def profile(self, patience: float) -> Profile:
        """Let it work once more, and say which kernels it ran."""

    def end(self) -> None:
        """Let go of what it holds."""


class Local:
    """A job in this process."""

    def __init__(self, job: Job):
        self.job = job

    def ready(self, patience: float) -> None:
        """See `Side`."""
        from lm_bench.gpu.work import report, start

        with failing():
            self.work = start(self.job)
            self.report = report

    def block(self, patience: float) -> Report:
        """See `Side`."""
        with failing():
            return self.report(self.job, self.work())

    def profile(self, patience: float) -> Profile:
        """See `Side`."""
        return Profile(kernels=())

    def end(self) -> None:
        """See `Side`."""


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Turns any error into a `SideError`."""
    try:
        yield
    except Exception as error:
        raise SideError(f"{type(error).__name__}: {error}") from error


class Process:
    """A job in a process of its own, which answers each line that it is sent with one line of JSON."""

    def __init__(self, job: Job, environment: Mapping[str, str]):
        self.job = job
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        command = [sys.executable, "-m", "lm_bench.gpu.child", job.model_dump_json()]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env={**os.environ, **environment},
        )
        self.unread = b""

    def ready(self, patience: float) -> None:
        """See `Side`."""
        self._answer(patience)

    def block(self, patience: float) -> Report:
        """See `Side`."""
        return Report.model_validate_json(self._ask("block", patience))

    def profile(self, patience: float) -> Profile:
        """See `Side`."""
        return Profile.model_validate_json(self._ask("profile", patience))

    def end(self) -> None:
        """See `Side`."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.said):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _ask(self, what: str, patience: float) -> str:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its answer says why
            self.process.stdin.write(f"{what}\n".encode())
            self.process.stdin.flush()
        return self._answer(patience)

    def _answer(self, patience: float) -> str:
        """The next line that it writes."""
        assert self.process.stdout is not None
        until = time.monotonic() + patience
        while b"\n" not in self.unread:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise SideError(f"no answer within {patience:.0f} s; {self._last_lines()}")
            read = os.read(self.process.stdout.fileno(), 1 << 16)
            if not read:
                raise SideError(f"ended with {self.process.wait()}: {self._last_lines()}")
            self.unread += read
        line, _, self.unread = self.unread.partition(b"\n")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise SideError(str(answer["error"]))
        return line.decode()

    def _last_lines(self) -> str:
        size = self.said.seek(0, os.SEEK_END)
        self.said.seek(max(0, size - 4096))
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-LAST_LINES:])
