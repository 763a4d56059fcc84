"""The workers of a study: as many processes as jobs fit at once, each of which does one after another.

A worker that dies, as when the kernel takes its memory back, leaves a result that says so; the others continue.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lm_bench.study.plan import Job, Trial
from lm_bench.study.result import RunResult
from lm_core.disk.files import make_folder, write_whole
from lm_core.errors import UserError
from lm_core.file_names import toml_bytes
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts

_TICK_SECONDS = 0.1
_LOG_END = 4096
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class StoppedError(Exception):
    """Somebody has asked the study to stop; what runs has been saved."""


@dataclass
class _Worker:
    """A process, and what it does."""

    process: subprocess.Popen[bytes]
    log: Path
    job: Job = ()
    is_ready: bool = False
    """Whether it has imported the program."""

    @property
    def answers(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def commands(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin


@dataclass
class Pool:
    """The workers, which end with the context.

    Args:
        app: program that trains.
        study_folder: holds the trials.
        metric: key of a run's result.
        size: number of workers; one is started when there is something for it to do.
        threads: of each.
    """

    app: str
    study_folder: Path
    metric: str
    size: int
    threads: int
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._selector = selectors.DefaultSelector()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            with suppress(OSError):
                worker.commands.close()
            if error is not None and worker.job:
                worker.process.kill()
            worker.process.wait()
            worker.answers.close()
        self._selector.close()

    @property
    def running(self) -> list[Trial]:
        """The trials that are being run."""
        return [trial for worker in self._workers for trial in worker.job]

    def run(
        self,
        jobs: Sequence[Job],
        interrupts: Interrupts,
        finished: Callable[[RunResult], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Run jobs, the first ones first, and hand over each result; `tick` is called now and then meanwhile.

        Raises:
            StoppedError: when it is asked for; what was running has saved.
            UserError: when a worker cannot start, or nothing can be written.
        """
        waiting = list(reversed(jobs))
        while waiting or self.running:
            if interrupts.requested:
                self._stop(finished)
            while waiting and (worker := self._idle()):
                self._start(worker, waiting.pop())
            for key, _ in self._selector.select(_TICK_SECONDS):
                self._hear(key.data, finished)
            tick()

    def _idle(self) -> _Worker | None:
        for worker in self._workers:
            if worker.is_ready and not worker.job:
                return worker
        starting = any(not worker.is_ready for worker in self._workers)
        if len(self._workers) < self.size and not starting:
            self._workers.append(self._new())
        return None

    def _new(self) -> _Worker:
        log = self.study_folder / f"worker-{len(self._workers)}.log"
        command = [sys.executable, "-m", "lm_bench.study.worker", self.app, str(os.getpid())]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for this process alone, which passes it on
                env=os.environ | dict.fromkeys(THREADS, str(self.threads)),
            )
        worker = _Worker(process, log)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _start(self, worker: _Worker, job: Job) -> None:
        line = json.dumps(tasks_of(job, self.study_folder, self.metric))
        worker.job = job
        with suppress(BrokenPipeError):  # it has died: the end of its answers says so
            worker.commands.write(line.encode() + b"\n")

    def _hear(self, worker: _Worker, finished: Callable[[RunResult], None]) -> None:
        answer = worker.answers.readline()
        if not answer:
            self._bury(worker, finished)
        elif not worker.is_ready:
            worker.is_ready = True
        elif worker.job:
            job, worker.job = worker.job, ()
            if not json.loads(answer)["finished"]:
                raise StoppedError  # by a signal that somebody has sent to the worker
            for result in outcomes(job, self.study_folder):
                finished(result)

    def _bury(self, worker: _Worker, finished: Callable[[RunResult], None]) -> None:
        """Take away a worker that has ended, and keep what became of its job."""
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        code = worker.process.wait()
        worker.answers.close()
        with suppress(OSError):
            worker.commands.close()
        if not worker.is_ready:
            raise UserError(f"a worker cannot start: {_last_line(worker.log) or f'it ended with exit code {code}'}")
        for result in outcomes(worker.job, self.study_folder, code):
            finished(result)

    def _stop(self, finished: Callable[[RunResult], None]) -> None:
        """Let what runs save and stop, and wait for it."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            while answer := worker.answers.readline():
                if worker.is_ready and worker.job and json.loads(answer)["finished"]:
                    for result in outcomes(worker.job, self.study_folder):
                        finished(result)
                worker.job, worker.is_ready = (), True
                worker.commands.close()
            worker.job = ()
        raise StoppedError


def tasks_of(job: Job, study_folder: Path, metric: str) -> list[dict[str, object]]:
    """The tasks of a worker for a job, to be sent as JSON; writes the files of their configs.

    Raises:
        UserError: when it cannot be.
    """
    tasks = list[dict[str, object]]()
    for trial in job:
        folder = trial.folder(study_folder)
        config = folder.with_suffix(".toml")
        try:
            make_folder(folder.parent)
            write_whole(config, toml_bytes(trial.toml))
        except OSError as error:
            raise UserError(f"cannot write to {folder.parent}: {error.strerror}") from None
        files = {"folder": str(folder), "config": str(config), "log": str(_log_of(job, study_folder))}
        tasks.append({**trial.identity(), "config_hash": trial.hash, "metric": metric, **files})
    return tasks


def outcomes(job: Job, study_folder: Path, code: int = 0) -> list[RunResult]:
    """The results of a job whose process has done it, or has ended with an exit code."""
    said = _last_line(_log_of(job, study_folder)) if job else ""
    return [RunResult.read(trial.folder(study_folder)) or _lost(trial, study_folder, code, said) for trial in job]


def _log_of(job: Job, study_folder: Path) -> Path:
    return job[0].folder(study_folder).with_suffix(".log")


def _lost(trial: Trial, study_folder: Path, code: int, said: str) -> RunResult:
    """The result of a trial whose process ended without one, which is written."""
    folder = trial.folder(study_folder)
    killed = code == -signal.SIGKILL
    result = RunResult(
        **trial.identity(),
        status="out of memory" if killed else "failed",
        message="its process was killed, as the system does when the memory is full"
        if killed
        else f"its process ended with exit code {code}" + (f": {said}" if said else ""),
        metric=None,
        seconds=0.0,
        steps_done=0,
        peak_bytes=None,
        config_hash=trial.hash,
        folder=folder,
    )
    result.write()
    return result


def _last_line(path: Path) -> str:
    lines = _end_of(path).split(b"\n")
    return next((line.decode(errors="replace").strip() for line in reversed(lines) if line.strip()), "")


def _end_of(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_END))
        return file.read()
    return b""


def steps_of(trial: Trial, study_folder: Path) -> int:
    """Steps that a running trial has logged."""
    lines = _end_of(RunFolder(trial.folder(study_folder)).metrics).split(b"\n")
    for line in reversed(lines[:-1]):
        with suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["step"])
    return 0
