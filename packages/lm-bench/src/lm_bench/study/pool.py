"""The workers of a study: as many processes as runs fit at once, each of which runs one trial after another.

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

from lm_bench.study.plan import Trial
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
    trial: Trial | None = None
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
            if error is not None and worker.trial:
                worker.process.kill()
            worker.process.wait()
            worker.answers.close()
        self._selector.close()

    @property
    def running(self) -> list[Trial]:
        """The trials that are being run."""
        return [worker.trial for worker in self._workers if worker.trial]

    def run(
        self,
        trials: Sequence[Trial],
        interrupts: Interrupts,
        finished: Callable[[RunResult], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Run trials, the first ones first, and hand over each result; `tick` is called now and then meanwhile.

        Raises:
            StoppedError: when it is asked for; what was running has saved.
            UserError: when a worker cannot start, or nothing can be written.
        """
        waiting = list(reversed(trials))
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
            if worker.is_ready and worker.trial is None:
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

    def _start(self, worker: _Worker, trial: Trial) -> None:
        line = json.dumps(task_of(trial, self.study_folder, self.metric))
        worker.trial = trial
        with suppress(BrokenPipeError):  # it has died: the end of its answers says so
            worker.commands.write(line.encode() + b"\n")

    def _hear(self, worker: _Worker, finished: Callable[[RunResult], None]) -> None:
        answer = worker.answers.readline()
        if not answer:
            self._bury(worker, finished)
        elif not worker.is_ready:
            worker.is_ready = True
        elif worker.trial:
            trial, worker.trial = worker.trial, None
            if not json.loads(answer)["finished"]:
                raise StoppedError  # by a signal that somebody has sent to the worker
            finished(_read(trial, self.study_folder))

    def _bury(self, worker: _Worker, finished: Callable[[RunResult], None]) -> None:
        """Take away a worker that has ended, and keep what became of its trial."""
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        code = worker.process.wait()
        worker.answers.close()
        with suppress(OSError):
            worker.commands.close()
        if not worker.is_ready:
            raise UserError(f"a worker cannot start: {_last_line(worker.log) or f'it ended with exit code {code}'}")
        if worker.trial is None:
            return
        finished(lost(worker.trial, self.study_folder, code))

    def _stop(self, finished: Callable[[RunResult], None]) -> None:
        """Let what runs save and stop, and wait for it."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            while answer := worker.answers.readline():
                if worker.is_ready and worker.trial and json.loads(answer)["finished"]:
                    finished(_read(worker.trial, self.study_folder))
                worker.trial, worker.is_ready = None, True
                worker.commands.close()
            worker.trial = None
        raise StoppedError


def task_of(trial: Trial, study_folder: Path, metric: str) -> dict[str, object]:
    """The task of a worker for a trial, to be sent as JSON; writes the file of its config.

    Raises:
        UserError: when it cannot be.
    """
    folder = trial.folder(study_folder)
    config, log = folder.with_suffix(".toml"), folder.with_suffix(".log")
    try:
        make_folder(folder.parent)
        write_whole(config, toml_bytes(trial.toml))
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}") from None
    files = {"folder": str(folder), "config": str(config), "log": str(log)}
    return {**trial.identity(), "config_hash": trial.hash, "metric": metric, **files}


def lost(trial: Trial, study_folder: Path, code: int) -> RunResult:
    """The result of a trial whose process ended without one, which is written."""
    folder = trial.folder(study_folder)
    killed = code == -signal.SIGKILL
    said = _last_line(folder.with_suffix(".log"))
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


def _read(trial: Trial, study_folder: Path) -> RunResult:
    result = RunResult.read(trial.folder(study_folder))
    assert result is not None, trial
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
