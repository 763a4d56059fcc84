"""From the results of runs to what they show: estimates, paired differences, tuning, targets, and alarms.

results --cells--> arm x budget x backend --comparisons--> differences on the same seeds, p corrected over all of them
        --tuned--> the metric over each grid     curves --reached--> time, steps and memory to the target
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

from lm_bench.study.config import Goal
from lm_bench.study.curves import RunCurves
from lm_bench.study.estimate import Estimate
from lm_bench.study.median import Median
from lm_bench.study.paired import Paired, holm_known, paired
from lm_bench.study.result import RunResult
from lm_bench.study.sensitivity import Point, Tuned, tuned, words
from lm_core.errors import UserError
from lm_core.run.state import RISEN


@dataclass(frozen=True)
class Question:
    """What is asked of results."""

    title: str
    metric: str
    """Name of it."""
    arms: tuple[str, ...]
    """In the order in which they are shown."""
    goal: Goal = "minimize"
    baseline: str = ""
    """Arm that the others are compared with; all pairs when empty."""
    target: float | None = None
    """Validation loss in nats."""
    lines: tuple[tuple[str, str], ...] = ()
    """More to say of it, name and value: the question, the power that was planned."""
    best: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Arm and budget -> the point that the tuning chose, in words."""
    alarms: tuple[str, ...] = ()
    """What is known to be wrong before the results are looked at."""


@dataclass(frozen=True)
class Cell:
    """The compared runs of an arm at a budget on a backend, in the order of their seeds."""

    arm: str
    budget: int
    backend: str
    runs: tuple[RunResult, ...]

    @property
    def by_seed(self) -> dict[int, float]:
        """The metric, of the runs that have one."""
        return {run.seed: run.metric for run in self.runs if run.metric is not None}

    @property
    def complete(self) -> list[RunResult]:
        """Runs that have a metric."""
        return [run for run in self.runs if run.metric is not None]

    @property
    def estimate(self) -> Estimate | None:
        """Of the metric; None where no run has one."""
        return Estimate.of(list(self.by_seed.values())) if self.by_seed else None

    @property
    def point(self) -> Point:
        """At which it is compared."""
        return self.runs[0].point

    @property
    def words(self) -> str:
        """Its name in a line; what a comparison of run folders lacks is left out."""
        return ", ".join(
            [self.arm, *([f"{self.budget:,} steps"] if self.budget else []), *filter(None, [self.backend])]
        )


@dataclass(frozen=True)
class Compared:
    """An arm less another, on the seeds that both have at one budget on one backend."""

    cell: Cell
    against: Cell
    paired: Paired | None
    """None where they have no seed in common."""
    t_p: float | None = None
    flips_p: float | None = None
    """Corrected over all comparisons (Holm)."""


@dataclass(frozen=True)
class Reached:
    """What a cell takes to its target; of a run that never reaches it infinitely much."""

    cell: Cell
    steps: Median
    seconds: Median | None
    """Of training; None where no run has a clock."""
    peak_bytes: Median | None
    """Of the runs that reach it; None where none does, or it was not measured."""
    missed: tuple[int, ...]
    """Seeds of the runs that never reach it."""
    faster_in_steps: Median | None = None
    faster_in_seconds: Median | None = None
    """Of the baseline over this, seed by seed; None without a baseline or a pair in which either reaches it."""


@dataclass(frozen=True)
class Analysis:
    """All that results show."""

    cells: tuple[Cell, ...]
    compared: tuple[Compared, ...]
    tuned: tuple[Tuned, ...]
    reached: tuple[Reached, ...]
    lost: tuple[RunResult, ...]
    """Runs that diverged or failed, also those of the tuning."""
    alarms: tuple[str, ...] = field(default=())


def analyzed(question: Question, results: Sequence[RunResult], curves: Mapping[Path, RunCurves]) -> Analysis:
    """Analyze results.

    Args:
        question: what is asked.
        results: of one study.
        curves: those of the compared runs, by run folder; of a run without a log none.

    Raises:
        UserError: when there are none, or no run has the metric.
    """
    runs, alarms = _distinct(results)
    if not any(run.metric is not None for run in runs):
        known = "it is in no result.json" if any(run.status == "complete" for run in runs) else "no run is complete"
        raise UserError(f"{question.title}: no run has {question.metric}: {known}")
    cells = cells_of(question.arms, runs)
    grids = tuned(run for run in runs if run.stage == "tuning")
    grids.sort(key=lambda one: (question.arms.index(one.arm), one.budget))
    return Analysis(
        cells,
        _compared(question, cells),
        tuple(grids),
        _reached(question, cells, curves) if question.target is not None else (),
        tuple(run for run in runs if run.metric is None),
        (*question.alarms, *alarms, *_gaps(cells), *_close(cells, grids), *_risen(cells, curves)),
    )


def _distinct(results: Sequence[RunResult]) -> tuple[list[RunResult], list[str]]:
    """Each run once, and a line for those that are there twice."""
    found: dict[tuple[object, ...], RunResult] = {}
    alarms = []
    for run in results:
        if run.status != "complete" or run.metric is None or not math.isfinite(run.metric):
            run = replace(run, metric=None)
        key = (run.stage, run.arm, repr(run.point), run.budget, run.backend, run.seed)
        if key in found:
            alarms.append(
                f"{run.arm}, seed {run.seed}: {found[key].folder.name} and {run.folder.name} are one run by"
                " different code, data or versions; the latter is taken"
            )
        found[key] = run
    return list(found.values()), alarms


def cells_of(arms: Sequence[str], runs: Sequence[RunResult]) -> tuple[Cell, ...]:
    """The cells of the runs that are compared, by budget, backend and arm."""
    groups: dict[tuple[int, str, int], list[RunResult]] = {}
    for run in runs:
        if run.stage == "comparison":
            groups.setdefault((run.budget, run.backend, arms.index(run.arm)), []).append(run)
    return tuple(
        Cell(arms[arm], budget, backend, tuple(sorted(group, key=lambda run: run.seed)))
        for (budget, backend, arm), group in sorted(groups.items())
    )


def _gaps(cells: Sequence[Cell]) -> list[str]:
    lines = []
    for cell in cells:
        lost = len(cell.runs) - len(cell.by_seed)
        if not cell.by_seed:
            lines.append(f"{cell.words}: no complete run")
        elif lost:
            lines.append(f"{cell.words}: {lost} of {len(cell.runs)} runs diverged or failed, and are in no mean")
        if len({repr(run.point) for run in cell.runs}) > 1:
            lines.append(f"{cell.words}: its runs are not of one point of the grid")
    for one, other in combinations(cells, 2):
        if len(one.by_seed) > 1 and (one.budget, one.backend, one.by_seed) == (
            other.budget,
            other.backend,
            other.by_seed,
        ):
            lines.append(
                f"{one.words}: {other.arm} has the same metric on every seed, so they differ in nothing at work"
            )
    alone = [cell.words for cell in cells if len(cell.by_seed) == 1]
    return [*lines, *([f"one seed only, so there is no interval: {'; '.join(alone)}"] if alone else [])]


def _close(cells: Sequence[Cell], grids: Sequence[Tuned]) -> list[str]:
    """Of arms whose tuning tells its point from another by less than chance does, by what their compared seeds show.

    The difference of two means of k seeds that have nothing in common has the deviation sd sqrt(2 / k).
    """
    lines = []
    for cell in cells:
        points = [
            (fmean(point.metrics), point)
            for one in grids
            if (one.arm, one.budget) == (cell.arm, cell.budget)
            for point in one.points
            if len(point.metrics) == len(point.runs)
        ]
        mine = next((mean for mean, point in points if point.point == cell.point), None)
        others = [(abs(mean - mine), point) for mean, point in points if mine is not None and point.point != cell.point]
        deviation = cell.estimate.deviation if cell.estimate else None
        if not others or deviation is None:
            continue
        gap, point = min(others, key=lambda other: other[0])
        chance = deviation * math.sqrt(2 / len(point.runs))
        if gap < chance:
            lines.append(
                f"{cell.words}: its tuning tells {words(cell.point)} from {words(point.point)} by {gap:.4f}, and chance"
                f" alone by {chance:.4f}: another tuning may choose otherwise"
            )
    return lines


def _risen(cells: Sequence[Cell], curves: Mapping[Path, RunCurves]) -> list[str]:
    """Of runs whose loss rises towards the end of their schedule."""
    lines = []
    for cell in cells:
        losses = [curves[run.folder].validation[1] for run in cell.complete if run.folder in curves]
        risen = [one for one in losses if len(one) and one[-1] > RISEN * one.min()]
        if risen:
            lines.append(
                f"{cell.words}: {len(risen)} of {len(cell.runs)} runs end with a validation loss more than"
                f" {RISEN - 1:.0%} above their lowest: overfitting or instability"
            )
    return lines


def _compared(question: Question, cells: Sequence[Cell]) -> tuple[Compared, ...]:
    found = []
    for one, other in combinations(cells, 2):
        if (one.budget, one.backend) != (other.budget, other.backend):
            continue
        if not question.baseline:
            found.append(pair_of(other, one))
        elif question.baseline in (one.arm, other.arm):
            found.append(pair_of(other, one) if one.arm == question.baseline else pair_of(one, other))
    t_p, flips_p = (holm_known([getattr(pair.paired, key, None) for pair in found]) for key in ("t_p", "flips_p"))
    return tuple(Compared(f.cell, f.against, f.paired, t, s) for f, t, s in zip(found, t_p, flips_p, strict=True))


def pair_of(cell: Cell, against: Cell) -> Compared:
    """A cell less another, on the seeds that both have complete; p-values are for whoever knows all comparisons."""
    ours, theirs = cell.by_seed, against.by_seed
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return Compared(cell, against, paired(differences) if differences else None)


Place = tuple[float, float]
"""Step and training time at which a run reaches a target: infinite where it never does, NaN without a clock."""


def _reached(question: Question, cells: Sequence[Cell], curves: Mapping[Path, RunCurves]) -> tuple[Reached, ...]:
    assert question.target is not None
    found = []
    baselines = dict[tuple[int, str], dict[int, Place]]()
    for cell in sorted(cells, key=lambda cell: cell.arm != question.baseline):
        places = {
            run.seed: first_at(curves[run.folder], question.target) if run.folder in curves else (math.inf, math.inf)
            for run in cell.runs
        }
        peaks = [run.peak_bytes for run in cell.runs if run.peak_bytes and places[run.seed][0] < math.inf]
        faster: list[Median | None] = [None, None]
        if cell.arm == question.baseline:
            baselines[cell.budget, cell.backend] = places
        elif theirs := baselines.get((cell.budget, cell.backend)):
            faster = [_faster(places, theirs, which) for which in (0, 1)]
        steps, seconds = (_median([place[which] for place in places.values()]) for which in (0, 1))
        assert steps  # a cell has a run
        missed = tuple(seed for seed, place in places.items() if place[0] == math.inf)
        found.append(Reached(cell, steps, seconds, _median(peaks), missed, *faster))
    return tuple(sorted(found, key=lambda one: cells.index(one.cell)))


def first_at(curves: RunCurves, target: float) -> Place:
    """The first evaluation whose loss is the target's or lower."""
    steps, losses = curves.validation
    there = losses <= target
    if not there.any():
        return math.inf, math.inf
    step = float(steps[there][0])
    clock = dict(zip(*map(list, curves.seconds), strict=True))
    return step, float(clock.get(step, math.nan))


def _median(sample: Sequence[float]) -> Median | None:
    known = [number for number in sample if not math.isnan(number)]
    return Median.of(known) if known else None


def _faster(ours: Mapping[int, Place], theirs: Mapping[int, Place], which: int) -> Median | None:
    """Theirs over ours, of the seeds in which either reaches the target."""
    pairs = [(ours[seed][which], theirs[seed][which]) for seed in ours if seed in theirs]
    return _median([other / one for one, other in pairs if one > 0 and not one == other == math.inf])
