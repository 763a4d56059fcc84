"""The workers of a study on a Ray cluster: each job is a program there, and starts again where its machine dies.

All machines need the same packages, and the folder of the study and the current folder of this process under the same
paths (`lm_pipeline.ray_workers`).
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from lm_bench.study.plan import Job, Trial
from lm_bench.study.pool import THREADS, outcomes, tasks_of
from lm_bench.study.result import RunResult
from lm_bench.study.worker import run_job
from lm_core import terminal
from lm_core.page import leave_pictures_out
from lm_core.run.interrupts import Interrupts
from lm_pipeline.trials.program import program_of
from lm_pipeline.workers import environment, interruptible, workers

_STOPPED = 130
"""Exit code of a trial that has saved before its end."""
Task = tuple[Job, list[dict[str, object]]]


@dataclass
class Cluster:
    """Workers on a cluster, with the interface of `Pool`.

    A signal to stop is a KeyboardInterrupt here, after which what runs has saved.

    Args:
        app: program that trains.
        study_folder: holds the trials.
        metric: key of a run's result.
        size: number of workers; 0: as many as there are GPUs, or CPUs.
        threads: of each.
        on: "ray" or the address of a cluster; see `lm_pipeline.workers.workers`.
    """

    app: str
    study_folder: Path
    metric: str
    size: int
    threads: int
    on: str
    running: Sequence[Trial] = ()
    """Nothing is known of them before they end."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(environment(dict.fromkeys(THREADS, str(self.threads))))
            stack.enter_context(interruptible())
            self._workers = stack.enter_context(workers(self.on, self.size))
            self.size = self._workers.programs_at_once
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def run(
        self,
        jobs: Sequence[Job],
        interrupts: Interrupts,
        finished: Callable[[RunResult], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """See `Pool.run`; `tick` is called after each result."""
        tasks = ((job, tasks_of(job, self.study_folder, self.metric)) for job in jobs)
        for (job, _), code in self._workers.programs(partial(_command, self.app), tasks):
            if code == _STOPPED:
                raise KeyboardInterrupt
            for result in outcomes(job, self.study_folder, code):
                finished(result)
            tick()


def _command(app: str, task: Task) -> Sequence[str]:
    return [__name__, app, json.dumps(task[1])]


def main() -> int:
    """One job: `python -m lm_bench.study.cluster APP TASKS`, these as JSON; returns its exit code."""
    app, tasks = sys.argv[1], json.loads(sys.argv[2])
    with Path(tasks[0]["log"]).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        terminal.prepare()
        leave_pictures_out()
        finished = run_job(program_of(app), tasks)
    return 0 if finished else _STOPPED


if __name__ == "__main__":
    sys.exit(main())
