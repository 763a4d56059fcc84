"""Harm that a child does to itself for its trial: stopping, dying, slowness, poison, limits, a wrong clock."""

import ctypes
import errno
import itertools
import os
import resource
import signal
import stat
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lm_bench.faults.trial import Trial
from lm_core.backend import Backend, Metrics, Trainer
from lm_core.data.batches import Batch, Batches
from lm_core.disk.files import Buffer
from lm_core.run import checkpoint, folder, log, session
from lm_core.run.log import RunLog
from lm_core.run.loop import Run

GRADIENT = "gradient of "
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_PTRACER = 0x59616D61
_SUSPICIOUS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect")
"""Start programs, run compiled or pickled code, reach for the network."""
_AUDITED: list[str] = []
"""The file of the hook, once there is one."""


def prepare(trial: Trial) -> None:
    """Everything that lasts for the whole trial."""
    if trial.stop_at_start or trial.stop_at_save:  # where there is strace
        _allow_tracer()
    if trial.careless == "prune first":
        _prune_first()
    elif trial.careless:
        for module in (checkpoint, folder, log):
            setattr(module, "write_whole", _written_carelessly)  # noqa: B010
    setattr(session, "Run", partial(Run, retry_seconds=(0.02,)))  # noqa: B010
    # Drawing takes longer than the run, and nothing of a run is read from its report.
    setattr(session, "write_report", lambda folder: folder / "report.html")  # noqa: B010
    if trial.stop_at_save:
        _stop_at_save(trial)
    if trial.stall:
        _stall(trial.stall)
    if not trial.folder_flush:
        _flush_no_folders()
    if trial.clock:
        _shift_clock(trial.clock)
    if trial.without_rights and sys.platform == "linux":
        _drop_capabilities()
    if trial.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trial.file_limit, resource.RLIM_INFINITY))
    if trial.limit_kills:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if trial.memory_limit and sys.platform == "linux":
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (in_use + trial.memory_limit, most))
    if trial.audit:
        audit(trial.audit)
    if trial.stop_at_start:
        _stop()


class Announcing:
    """A sink that notes each proven checkpoint outside the run folder."""

    def __init__(self, path: str):
        self.path = path

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Records are not noted."""

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        """One line, in one write."""
        _note(self.path, f"{step} {metadata.stem}")

    def close(self, failed: bool) -> None:
        """Nothing is open."""


class WatchedBatches:
    """Batches with what happens at the beginning of a step."""

    def __init__(self, batches: Batches, trial: Trial):
        self.batches, self.trial = batches, trial

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step`."""
        if step == self.trial.die_at:
            _wait_for_the_writer()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trial.pace:
            time.sleep(self.trial.pace)
        return self.batches.batch(step, rank, world)

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of `step`."""
        return self.batches.shape(step)


class Poisoning:
    """A backend whose trainers get something that is not finite at the trial's step."""

    def __init__(self, backend: Backend, trial: Trial):
        self.backend, self.trial = backend, trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def build(self, *arguments: Any) -> Trainer:
        """The backend's trainer, poisoned where the trial says so."""
        trainer = self.backend.build(*arguments)
        return cast("Trainer", _Poisoned(trainer, self.trial)) if self.trial.poison else trainer


class _Poisoned:
    """Everything else is the trainer's own."""

    def __init__(self, trainer: Trainer, trial: Trial):
        self.trainer, self.trial, self.steps_left = trainer, trial, trial.poison_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)

    def step(self, batch: Batch, lr: float) -> Metrics:
        metrics = dict(self.trainer.step(batch, lr))
        self.steps_left -= 1
        if self.steps_left == 0:
            value, where = float(self.trial.poison_value), self.trial.poison
            if where == "loss":
                metrics["loss_nats"] = value
            elif where.startswith(GRADIENT):
                names = list(self.trainer.weights())
                metrics["grad_norm"] = value
                metrics["grad_norms"] = np.where(np.array(names) == where.removeprefix(GRADIENT), value, 1.0)
            else:
                weights, state = dict(self.trainer.weights()), dict(self.trainer.optimizer_state())
                arrays = weights if where in weights else state
                arrays[where] = _with_one(arrays[where], value)
                self.trainer.load(weights, state)
        return metrics


def _with_one(array: NDArray[Any], value: float) -> NDArray[Any]:
    poisoned = array.copy()
    poisoned.reshape(-1)[poisoned.size // 2] = value
    return poisoned


def _wait_for_the_writer() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("save of"):
            thread.join()


def _note(path: str, line: str) -> None:
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _stop_at_save(trial: Trial) -> None:
    """Stop where a save begins: in its thread, when it has the log on the disk."""
    flush, saves = RunLog.flush, itertools.count(1)

    def stopping(log: RunLog) -> None:
        if next(saves) == trial.stop_at_save:
            _note(trial.announced, f"thread {threading.get_native_id()}")
            _stop()
        flush(log)

    setattr(RunLog, "flush", stopping)  # noqa: B010


def _allow_tracer() -> None:
    """Let a process that is not an ancestor attach where the Yama module restricts it."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)


def _stall(seconds: float) -> None:
    flush = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(seconds)
        flush(descriptor)

    os.fsync = cast("Any", slow)


def _flush_no_folders() -> None:
    flush = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    os.fsync = cast("Any", only_files)


def _shift_clock(seconds: float) -> None:
    now = time.time
    time.time = lambda: now() + seconds


def _drop_capabilities() -> None:
    """Root without capabilities is a user like any other; a user has none to lose."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0


def audit(path: str) -> None:
    """Note in a file what only foreign code would do; "" ends it. A hook itself cannot be taken away."""
    if path and not _AUDITED:
        sys.addaudithook(_note_suspicious)
    _AUDITED[:] = [path]


def _note_suspicious(event: str, arguments: tuple[Any, ...]) -> None:
    if _AUDITED[0] and event.startswith(_SUSPICIOUS):
        _note(_AUDITED[0], f"{event} {arguments!r}")


def _prune_first() -> None:
    save = checkpoint.Checkpoints.save

    def careless(self: checkpoint.Checkpoints, *arguments: Any, **options: Any) -> Path:
        for path in self.folder.glob("*"):
            path.unlink()
        return save(self, *arguments, **options)

    checkpoint.Checkpoints.save = careless  # type: ignore[method-assign]


def _written_carelessly(path: Path, *parts: Buffer) -> None:
    """In place, and not flushed."""
    with path.open("wb") as file:
        file.writelines(parts)
