"""Tools of every row: a fork server, a folder, the uninterrupted run to compare with, and checks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from lm_bench.faults import here
from lm_bench.faults.outcome import Outcome, differences
from lm_bench.faults.row import Row
from lm_bench.faults.trial import DIED_AT, SHORT_STEPS, STEPS, Trial
from lm_bench.flags import BackendName

PATIENCE = 120.0
"""Seconds after which a child hangs; a run takes well under one."""


@dataclass(frozen=True)
class Started:
    """A child that runs."""

    pid: int
    trial: Trial
    task: str = "train"


class Bench:
    """A context that ends what it started.

    Args:
        backend: on which the children train.
        folder: where run folders are made; the caller removes it.
        seed: of every choice; a row and an index give a generator of their own.
        share: part of the full number of trials.
    """

    def __init__(self, backend: BackendName, folder: Path, seed: int, share: float):
        self.backend, self.folder, self.seed, self.share = backend, folder, seed, share
        self.steps = STEPS if share == 1 else SHORT_STEPS
        self.careless = ""
        self.here = False
        """Whether trials run in this process."""
        self._server: subprocess.Popen[str] | None = None
        self._whole: Outcome | None = None
        self._duration = 0.0
        self._running: set[int] = set()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._server:
            self._pipe(self._server.stdin).close()
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._pipe(self._server.stdout).close()

    def count(self, full: int, least: int = 2) -> int:
        """How many trials to make of a full campaign's."""
        return min(full, max(least, round(full * self.share)))

    def draw(self, *key: str | int) -> np.random.Generator:
        """The generator of a row's trial."""
        words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in key]
        return np.random.default_rng([self.seed, *words])

    def trial(self, name: str, **values: Any) -> Trial:
        """A trial in a folder of its own."""
        folder = self.folder / name
        own = {"folder": str(folder), "backend": self.backend, "announced": f"{folder}.announced", "steps": self.steps}
        return Trial.parse({**own, "careless": self.careless, **values})

    @property
    def whole(self) -> Outcome:
        """The uninterrupted run."""
        if self._whole is None:
            trial = self.trial("whole", keep=1000, careless="")
            code = self.finish(self.start(trial))
            assert code == 0, f"the uninterrupted run failed: {self.said(trial)}"
            self._whole = Outcome.of(Path(trial.folder))
        return self._whole

    @property
    def duration(self) -> float:
        """Seconds from the fork to the end of a run."""
        if not self._duration:
            assert self.whole.checkpoint  # the first child pays for what is loaded once
            trial = self.trial("timed")
            begun = time.monotonic()
            self.finish(self.start(trial))
            self._duration = time.monotonic() - begun
            self.remove(trial)
        return self._duration

    def begun(self, name: str) -> Trial:
        """A run that was killed at step DIED_AT; made once, in a child, then copied."""
        model = self.trial("begun", die_at=DIED_AT)
        if not Path(model.folder).exists():
            was_here, self.here = self.here, False
            self.finish(self.start(model))
            self.here = was_here
        trial = self.trial(name)
        shutil.copytree(model.folder, trial.folder)
        shutil.copy(model.announced, trial.announced)
        return trial

    def start(self, trial: Trial, task: str = "train") -> Started:
        """Fork a child; `here`, nothing happens until `finish`."""
        if self.here:
            return Started(0, trial, task)
        pid = self._ask({"do": "start", "task": task, "trial": trial.model_dump(mode="json")})["pid"]
        self._running.add(pid)
        return Started(pid, trial)

    def finish(self, started: Started, seconds: float = PATIENCE) -> int | None:
        """A child's exit code, or minus the signal that ended it; None for one that hung and was killed."""
        if not started.pid:
            return here.run(started.task, started.trial, seconds)
        code = self._ask({"do": "wait", "pid": started.pid, "seconds": seconds})["code"]
        self._running.discard(started.pid)
        return None if code is None else int(code)

    def said(self, trial: Trial, last: int | None = 2000) -> str:
        """Output of the children of a folder, the last characters of it or, for None, all."""
        path = Path(f"{trial.folder}.said")
        return path.read_text(encoding="utf-8", errors="replace")[-(last or 0) :] if path.exists() else ""

    def announced(self, trial: Trial) -> list[tuple[int, str]]:
        """Step and name of the checkpoints that a run has announced, in its order."""
        path = Path(trial.announced)
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(first), second) for first, second in lines if first != "thread"]

    def check_kept(self, row: Row, trial: Trial, what: str) -> Outcome:
        """Whether the last announced checkpoint, or a later one, is still there."""
        found = Outcome.of(Path(trial.folder))
        last = max((step for step, _ in self.announced(trial)), default=0)
        if found.step < last:
            row.lost_saves += 1
            row.violations.append(f"{what}: step {last} had been announced, found {found.step} {found.complaints}")
        return found

    def resume(self, row: Row, trial: Trial, what: str, said: Sequence[str] = (), *, log: bool = True) -> None:
        """Resume a trial's run to its end, unharmed, and compare it with the uninterrupted one.

        It must print each of `said`. Without `log` the records are not compared: they had been taken away.
        """
        again = self.trial(str(Path(trial.folder).relative_to(self.folder)), steps=trial.steps, announced="")
        self.compare(row, trial, what, self.finish(self.start(again)), self.whole, said, log=log)

    def compare(
        self,
        row: Row,
        trial: Trial,
        what: str,
        code: int | None,
        whole: Outcome,
        said: Sequence[str] = (),
        *,
        log: bool = True,
    ) -> None:
        """Compare a run that was resumed, and ended with `code`, with the uninterrupted one; see `resume`."""
        row.resumed += 1
        found = Outcome.of(Path(trial.folder)) if code == 0 else None
        wrong = differences(found, whole, log=log) if found else [f"exit code {code}"]
        if wrong:
            tail = self.said(trial).splitlines()[-1:] if code else ""
            row.violations.append(f"{what}: resumed, it differs: {'; '.join(wrong[:4])} {tail}")
            return
        row.same += 1
        silent = [text for text in said if text not in self.said(trial, None)]
        if silent:
            row.violations.append(f"{what}: resumed, it does not say {silent}")
            return
        self.remove(trial)

    def remove(self, trial: Trial) -> None:
        """The folder of a trial that went well, and what lies beside it."""
        shutil.rmtree(trial.folder, ignore_errors=True)
        for suffix in (".said", ".announced", ".trace", ".hosts"):
            Path(f"{trial.folder}{suffix}").unlink(missing_ok=True)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._server is None:
            self._server = self._launch()
        pipe = self._pipe(self._server.stdin)
        pipe.write(json.dumps(request) + "\n")
        pipe.flush()
        answer: dict[str, Any] = json.loads(self._pipe(self._server.stdout).readline())
        return answer

    def _launch(self) -> subprocess.Popen[str]:
        server = subprocess.Popen(
            [sys.executable, "-m", "lm_bench.faults.server", self.backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._pipe(server.stdout).readline(), "the fork server did not start"
        return server

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
