"""The choice of an arm's point: the best of completed runs, edges, and extensions of the grid."""

from dataclasses import replace
from pathlib import Path

import pytest

from lm_bench.study.config import StudyConfig
from lm_bench.study.result import RunResult
from lm_bench.study.tuning import chosen, extended, new_points

from .study_files import STUDY

ONE = RunResult("A", {}, 4, 1000, "torch", "tuning", "complete", "", 1.0, 1.0, 4, None, "h", Path())


def runs(metrics, key="lr"):
    """Tuning runs: value -> metrics of its seeds, None for one that diverges."""
    return [
        replace(ONE, point={key: value}, metric=metric, status="diverged" if metric is None else "complete")
        for value, of_seeds in metrics.items()
        for metric in of_seeds
    ]


def choice(metrics, goal="minimize"):
    study = StudyConfig.parse({**STUDY, "goal": goal})
    return chosen(study, "A", 4, {"lr": tuple(metrics)}, runs(metrics))


def test_the_best_point_has_the_best_mean_over_the_tuning_seeds():
    metrics = {0.1: [3.0, 1.0], 0.2: [1.5, 1.7], 0.3: [0.5, 9.0]}
    assert choice(metrics).point == {"lr": 0.2}
    assert choice(metrics, "maximize").point == {"lr": 0.3}
    assert choice(metrics).trials == 3


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_point_where_a_run_has_not_completed_is_not_chosen(bad):
    assert choice({0.1: [2.0, 2.0], 0.2: [1.0, bad]}).point == {"lr": 0.1}
    nothing = choice({0.1: [bad], 0.2: [bad]})
    assert nothing.point is None
    assert nothing.alarms == ["A, 4 steps: no run of its grid has completed: it is not compared"]


def test_a_best_value_at_the_edge_is_an_alarm():
    inside = choice({0.1: [2.0], 0.2: [1.0], 0.3: [2.0]})
    assert (inside.edges, inside.alarms) == ((), [])
    edge = choice({0.1: [2.0], 0.2: [1.0]})
    assert edge.alarms == ["A, 4 steps: the best lr is 0.2, at the edge of its grid: extend it"]


@pytest.mark.parametrize(
    ("grid", "best", "new"),
    [
        ((3e-4, 1e-3, 3e-3, 1e-2), 1e-2, 3e-2),
        ((3e-4, 1e-3, 3e-3, 1e-2), 3e-4, 1e-4),
        ((1.0, 10.0, 100.0), 100.0, 1000.0),
        ((0.5, 1.0), 1.0, 2.0),
        ((1, 2, 4), 4, 8),
    ],
)
def test_a_grid_is_extended_beyond_its_edge_in_its_own_ratio(grid, best, new):
    at_edge = choice({value: [1.0 - (value == best)] for value in grid})
    wider = extended({"lr": grid}, at_edge)
    assert wider == {"lr": (*grid, new)}
    assert new_points({"lr": grid}, wider) == [{"lr": new}]


@pytest.mark.parametrize("grid", [(0.0, 1.0), ("cosine", "constant"), (True, False), (0.1,)])
def test_a_grid_without_ratios_stays_as_it_is(grid):
    at_edge = choice({value: [float(index)] for index, value in enumerate(grid)})
    assert extended({"lr": grid}, at_edge) == {"lr": grid}


def test_an_extended_grid_has_every_combination_with_the_other_fields():
    before, after = {"a": (1, 2), "b": (3, 4)}, {"a": (1, 2, 4), "b": (3, 4)}
    assert new_points(before, after) == [{"a": 4, "b": 3}, {"a": 4, "b": 4}]


def test_a_study_that_tunes_nothing_has_one_point():
    study = StudyConfig.parse({**STUDY, "tuned": {}})
    assert chosen(study, "A", 4, {}, []).point == {}
