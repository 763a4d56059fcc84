"""The cost of a study before it runs: runs, steps, time, and the smallest effect that its seeds can show."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from lm_bench.study.config import StudyConfig
from lm_bench.study.harness import cells_of
from lm_bench.study.plan import Planner, points_of
from lm_bench.study.pool import Pool
from lm_bench.study.power import power_line
from lm_bench.study.progress import Durations, in_words
from lm_bench.study.result import RunResult
from lm_core.run.interrupts import Interrupts
from lm_core.terminal import aligned, say

_SHORT = (5, 10, 50)
"""Steps of the short runs: the first warms up, and what the others have in common is not counted."""


def timed(planner: Planner) -> Durations:
    """Seconds of a step, by short runs of the first arm; nothing is known where they do not complete.

    Raises:
        StoppedError: when it is asked to stop.
        UserError: when they cannot be started.
    """
    study = planner.study
    arm, point = next(iter(study.arms)), points_of(study.tuned)[0]
    runs: list[RunResult] = []
    jobs = [planner.jobs(planner.comparison(arm, steps, point))[0] for steps in _SHORT]
    if study.together:  # what is tuned may be trained by itself
        jobs += [planner.jobs(planner.tuning(arm, steps, [point]))[0] for steps in _SHORT if study.tuning_seeds]
    with (
        tempfile.TemporaryDirectory() as folder,
        Interrupts() as interrupts,
        Pool(study.app, Path(folder), study.metric, 1, study.threads) as pool,
    ):
        pool.run(jobs, interrupts, runs.append)
    if failed := next((run for run in runs if run.status != "complete"), None):
        say(f"note: the time is not known, a run of {failed.budget} steps did not complete: {failed.message}")
        return Durations()
    durations = Durations()
    for stage in dict.fromkeys(run.stage for run in runs):
        few, more = (next(r for r in runs if (r.stage, r.budget) == (stage, steps)) for steps in _SHORT[1:])
        seconds, steps = more.seconds - few.seconds, more.steps_done - few.steps_done
        durations.add(replace(more, seconds=seconds, steps_done=steps) if seconds > 0 else more)
    return durations


def plan_lines(study: StudyConfig, workers: int, durations: Durations, done: Sequence[RunResult]) -> list[str]:
    """The plan of a study with its cost, for people."""
    points = prod(len(values) for values in study.tuned.values()) if study.tuned else 0
    tuning, compared = points * len(study.tuning_seeds), study.seeds * len(study.backends)
    rows = [["arm", "budget", "tuning runs", "compared runs", "steps", "time of one"]]
    steps = seconds = 0.0
    for arm, budget in cells_of(study):
        one = durations.of(arm, budget)
        steps += (tuning + compared) * budget
        seconds += compared / study.seeds_in_job("comparison") * (one or 0.0)
        seconds += tuning / study.seeds_in_job("tuning") * (durations.of(arm, budget, "tuning") or 0.0)
        time = "-" if one is None else in_words(one)
        rows.append([arm, f"{budget:,}", str(tuning), str(compared), f"{(tuning + compared) * budget:,}", time])
    runs = (tuning + compared) * len(cells_of(study))
    at_once = f"{workers or 'as many as fit'} at once, {study.threads} thread{'s' * (study.threads > 1)} each"
    known = durations.of(next(iter(study.arms)), 1) is not None
    cost = f", about {in_words(seconds / (workers or 1))}{'' if workers else ' of one worker'}" if known else ""
    return [
        f"{study.name}: {study.question}",
        aligned(rows),
        f"{runs:,} runs ({len(done)} finished), {steps:,.0f} steps, {at_once}{cost}; extended grids add to it",
        power_line(study),
    ]
