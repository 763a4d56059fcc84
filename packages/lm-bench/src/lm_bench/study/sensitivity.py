"""Sensitivity of an arm to what is tuned: the metric at each point of its grid."""

from collections.abc import Iterable
from dataclasses import dataclass

from lm_bench.study.config import Scalar
from lm_bench.study.result import RunResult

Point = dict[str, Scalar]
"""Tuned key -> value."""


@dataclass(frozen=True)
class PointResult:
    """The runs of an arm at one point of its grid."""

    point: Point
    runs: tuple[RunResult, ...]

    @property
    def metrics(self) -> list[float]:
        """Those of the runs that have one."""
        return [run.metric for run in self.runs if run.metric is not None]


@dataclass(frozen=True)
class Tuned:
    """An arm over its grid, at one budget."""

    arm: str
    budget: int
    points: tuple[PointResult, ...]
    """In the order of their values."""


def tuned(runs: Iterable[RunResult]) -> list[Tuned]:
    """Each arm and budget of the runs, which are those of a tuning."""
    grids: dict[tuple[str, int], dict[str, list[RunResult]]] = {}
    for run in runs:
        grids.setdefault((run.arm, run.budget), {}).setdefault(repr(run.point), []).append(run)
    return [
        Tuned(arm, budget, tuple(sorted(map(_point_result, points.values()), key=lambda one: _order(one.point))))
        for (arm, budget), points in grids.items()
    ]


def words(point: Point) -> str:
    """A point, such as "lr 0.001"."""
    return ", ".join(f"{key} {value:g}" if is_number(value) else f"{key} {value}" for key, value in point.items())


def is_number(value: object) -> bool:
    """Whether a value of a grid has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _point_result(runs: list[RunResult]) -> PointResult:
    return PointResult(runs[0].point, tuple(runs))


def _order(point: Point) -> list[tuple[bool, float, str]]:
    return [(True, float(v), "") if is_number(v) else (False, 0.0, str(v)) for v in point.values()]
