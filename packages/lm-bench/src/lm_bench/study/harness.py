"""A study from its plan to its results: tuning, extension of the grids, comparison; resumed where it was cut.

    check --> tuning --best point at an edge?--> more of the grid --> comparison at the best point --> table

What was finished is known by its hash and not run again; the run that was cut is resumed by its session.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lm_bench.environment import load_average, observe
from lm_bench.study.cluster import Cluster
from lm_bench.study.config import Scalar, StudyConfig
from lm_bench.study.differences import Difference, differences
from lm_bench.study.folder import (
    StudyAbout,
    check_folder,
    counted,
    machines_with,
    prepare_folder,
    write_all,
)
from lm_bench.study.plan import Planner, Trial, points_of, resolved
from lm_bench.study.pool import Pool, steps_of
from lm_bench.study.progress import Progress
from lm_bench.study.result import RunResult, results
from lm_bench.study.table import rows_of, tables_of
from lm_bench.study.tuning import MOST_EXTENSIONS, Choice, chosen, extended, new_points
from lm_core.disk.lock import Lock
from lm_core.errors import UserError
from lm_core.run.interrupts import Interrupts
from lm_core.run.plan import Plan
from lm_core.terminal import say
from lm_pipeline.workers import LOCAL

Grids = dict[tuple[str, int], dict[str, tuple[Scalar, ...]]]
"""Grid of each arm and budget."""
_RETRIED = ("failed", "out of memory")


@dataclass
class Harness:
    """Runs one study in its folder.

    Args:
        study: what to run.
        planner: makes its trials.
        folder: where; it is held meanwhile.
        workers: runs at once; 0: as many as there is room for elsewhere.
        on: where; see `lm_pipeline.workers.workers`.
        retry: run again what has failed or ran out of memory; what diverged stays.
        keep: keep the checkpoints of finished runs.
    """

    study: StudyConfig
    planner: Planner
    folder: Path
    workers: int
    on: str = LOCAL
    retry: bool = False
    keep: bool = False
    done: dict[str, RunResult] = field(default_factory=dict)
    """Finished runs by their hash."""

    def run(self) -> StudyAbout:
        """Run what has not been run; returns what is known at the end.

        Raises:
            UserError: for a mistake in the study, before the first run; or when nothing can be written.
            StoppedError: when it was asked to stop; the same call resumes.
        """
        plans = self.planner.check()
        found = differences(self.study, plans)
        self._check_folder()
        for difference in found:
            if difference.alarm:
                say(f"alarm: {difference.line}")
        with Lock(self.folder):
            before = self._check_folder()
            prepare_folder(self.folder, self.study)
            about = self._about(plans, found, before)
            write_all(self.folder, about, [])
            self.read_done()
            choices = self._run_all(about)
            alarms = [*about.alarms, *(alarm for choice in choices for alarm in choice.alarms)]
            about = replace(about, choices=choices, alarms=alarms)
            write_all(self.folder, about, tables_of(rows_of(self.study, counted(self.folder, about))))
        return about

    def _check_folder(self) -> StudyAbout | None:
        return check_folder(self.folder, self.study, self.planner.code, self.planner.data)

    def read_done(self) -> None:
        """Read which runs are finished; with `retry` those that failed are taken away, to be run again."""
        for run in results(self.folder):
            if self.retry and run.status in _RETRIED:
                shutil.rmtree(run.folder)
            else:
                self.done[run.config_hash] = run
                self._drop_checkpoints(run)

    def _run_all(self, about: StudyAbout) -> list[Choice]:
        study, cells = self.study, cells_of(self.study)
        grids: Grids = {(arm, budget): study.grid(arm) for arm, budget in cells}
        how = study.app, self.folder, study.metric, self.workers, study.threads
        with Interrupts() as interrupts, Pool(*how) if self.on == LOCAL else Cluster(*how, self.on) as pool:
            progress = Progress(study.name, pool.size, list(self.done.values()))

            def run(trials: Sequence[Trial]) -> None:
                # What a model of several has finished stays a part of it: on their number its rounding depends.
                jobs = [job for job in self.planner.jobs(trials) if self._left(job)]
                if jobs:
                    self._note_machine(about)
                pool.run(jobs, interrupts, finish, show)

            def finish(result: RunResult) -> None:
                if result.config_hash in self.done:
                    return
                self.done[result.config_hash] = result
                self._drop_checkpoints(result)
                progress.finished(result)

            def show() -> None:
                progress.show([(trial, steps_of(trial, self.folder)) for trial in pool.running])

            new = {cell: points_of(grid) if grid else [] for cell, grid in grids.items()}
            for extension in range(1 + MOST_EXTENSIONS):
                tuning = [t for (arm, budget), points in new.items() for t in self.planner.tuning(arm, budget, points)]
                progress.expect([*self._left(tuning), *self._left(self._compared(grids))])
                run(tuning)
                wider = {cell: self._extended(*cell, grid) for cell, grid in grids.items()}
                new = {cell: new_points(grids[cell], grid) for cell, grid in wider.items()}
                if not study.extend or extension == MOST_EXTENSIONS or not any(new.values()):
                    break
                grids = wider
            compared = self._compared(grids)
            progress.expect(self._left(compared))
            run(compared)
            progress.show([], force=True)
        return [self._choice(*cell, grids) for cell in cells]

    def _choice(self, arm: str, budget: int, grids: Grids) -> Choice:
        return chosen(self.study, arm, budget, grids[arm, budget], self.done.values())

    def _extended(self, arm: str, budget: int, grid: dict[str, tuple[Scalar, ...]]) -> dict[str, tuple[Scalar, ...]]:
        """The grid beyond each edge on which the best point lies, as far as the config allows."""
        wider = grid
        for key, values in extended(grid, self._choice(arm, budget, {(arm, budget): grid})).items():
            more = {**wider, key: values}
            with suppress(UserError):
                for point in new_points(wider, more):
                    self.planner.plan(arm, point, budget)
                wider = more
        return wider

    def _compared(self, grids: Grids) -> list[Trial]:
        """The trials of the comparison: of each arm at its best point so far, or at any where none is known yet.

        Seed by seed, so that a study that is cut has pairs.
        """
        trials = []
        for arm, budget in grids:
            choice = self._choice(arm, budget, grids)
            if choice.point is not None or not self.done:
                point = choice.point or points_of(self.study.grid(arm))[0]
                trials += self.planner.comparison(arm, budget, point)
        return sorted(trials, key=lambda trial: (trial.budget, trial.seed))

    def _left(self, trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.hash not in self.done]

    def _drop_checkpoints(self, run: RunResult) -> None:
        """Take away the checkpoints of a finished run, which are most of its size."""
        if not self.keep:
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)

    def _about(self, plans: dict[str, Plan], found: list[Difference], before: StudyAbout | None) -> StudyAbout:
        return StudyAbout(
            code=self.planner.code,
            machines=before.machines if before else [],
            resolved={arm: resolved(plan) for arm, plan in plans.items()},
            differences=found,
            choices=before.choices if before else [],
            alarms=[difference.line for difference in found if difference.alarm],
            data=self.planner.data,
        )

    def _note_machine(self, about: StudyAbout) -> None:
        """Keep that this machine runs some of the study."""
        threads = f"{self.study.threads} thread{'s' * (self.study.threads > 1)} a run"
        frameworks = {name: f"{name} {version}, {threads}" for name, version in self.planner.versions.items()}
        machines = machines_with(about.machines, observe(frameworks, load_average()))
        if machines != about.machines:
            about.machines[:] = machines
            write_all(self.folder, about, [])


def cells_of(study: StudyConfig) -> list[tuple[str, int]]:
    """Every arm and budget; the small budgets first."""
    return [(arm, budget) for budget in sorted(study.budgets) for arm in study.arms]
