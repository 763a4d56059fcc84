"""The choice of each arm's point: the best of its grid, and whether that lies at an edge.

grid --trials of the tuning seeds--> best point --at an edge, extend--> more of the grid --> ... --> best point
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lm_bench.study.config import Goal, Scalar, StudyConfig
from lm_bench.study.plan import points_of
from lm_bench.study.result import RunResult
from lm_bench.study.sensitivity import Point

MOST_EXTENSIONS = 3
_DIGITS = 6


@dataclass(frozen=True)
class Choice:
    """The point that an arm is compared at, for one budget."""

    arm: str
    budget: int
    point: Point | None
    """None where no point of the grid gave a run that completes."""
    edges: tuple[str, ...]
    """Tuned keys whose best value lies at the edge of the grid."""
    trials: int
    """Points that were tried."""

    @property
    def alarms(self) -> list[str]:
        """Findings that a reader must know of."""
        where = f"{self.arm}, {self.budget:,} steps"
        if self.point is None:
            return [f"{where}: no run of its grid has completed: it is not compared"]
        return [
            f"{where}: the best {key} is {self.point[key]:g}, at the edge of its grid: extend it" for key in self.edges
        ]


def chosen(
    study: StudyConfig, arm: str, budget: int, grid: Mapping[str, Sequence[Scalar]], runs: Iterable[RunResult]
) -> Choice:
    """The point of an arm: the best mean over the tuning seeds, of those points whose runs have all completed."""
    points = points_of(grid)
    if not grid:
        return Choice(arm, budget, {}, (), 0)
    of_point: dict[str, list[float | None]] = {}
    for run in runs:
        if (run.arm, run.budget, run.stage) == (arm, budget, "tuning"):
            of_point.setdefault(repr(run.point), []).append(run.metric if run.status == "complete" else None)
    scores = [_score(of_point.get(repr(point), []), study.goal) for point in points]
    best = min(range(len(points)), key=scores.__getitem__)
    if math.isinf(scores[best]):
        return Choice(arm, budget, None, (), len(points))
    return Choice(arm, budget, points[best], _edges(points[best], grid), len(points))


def extended(grid: Mapping[str, Sequence[Scalar]], choice: Choice) -> dict[str, tuple[Scalar, ...]]:
    """The grid with one more value at each edge on which the choice lies; the same one where there is none to add."""
    wider = {key: tuple(values) for key, values in grid.items()}
    for key in choice.edges if choice.point else ():
        assert choice.point is not None
        wider[key] = (*wider[key], *_next(_numbers(wider[key]), choice.point[key]))
    return wider


def _score(metrics: Sequence[float | None], goal: Goal) -> float:
    """Lower is better; infinite where a run has none."""
    values = [math.nan if metric is None else metric for metric in metrics]
    if not values or not all(map(math.isfinite, values)):
        return math.inf
    return fmean(values) * (1 if goal == "minimize" else -1)


def _edges(point: Point, grid: Mapping[str, Sequence[Scalar]]) -> tuple[str, ...]:
    found = {key: _numbers(values) for key, values in grid.items()}
    return tuple(key for key, values in found.items() if values and point[key] in (values[0], values[-1]))


def _numbers(values: Sequence[Scalar]) -> list[float]:
    """The values in order, where they have one: two numbers or more."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return sorted(numbers) if len(numbers) == len(values) > 1 else []


def _next(numbers: list[float], edge: Scalar) -> list[Scalar]:
    """The value beyond an edge: 1, 3, 10 -> 30, and 1, 10, 100 -> 1000; none where a ratio has no meaning."""
    if numbers[0] <= 0:
        return []
    inwards = numbers[::-1] if edge == numbers[-1] else numbers
    ratio = inwards[0] / inwards[1] if len(inwards) < 3 else inwards[1] / inwards[2]
    value = inwards[0] * ratio
    if all(isinstance(number, int) for number in numbers):
        return [round(value)] if round(value) not in (0, *numbers) else []
    return [float(f"{value:.{_DIGITS}g}")]


def new_points(before: Mapping[str, Sequence[Scalar]], after: Mapping[str, Sequence[Scalar]]) -> list[Point]:
    """The points of a grid that a narrower one lacks."""
    had = set(itertools.product(*before.values()))
    return [point for point in points_of(after) if tuple(point.values()) not in had]
