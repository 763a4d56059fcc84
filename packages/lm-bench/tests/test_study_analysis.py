"""From results to estimates, differences on the same seeds, tuning, targets, and alarms."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lm_bench.study.analysis import analyzed
from lm_bench.study.summary import study_text, tables_of
from lm_core.errors import UserError

from .study_results import ARMS, QUESTION, curves, result

BASE, OTHER, KBETA = ARMS
NOTHING: dict = {}


def seeds(arm, metrics, **changes):
    return [result(arm, seed, metric, **changes) for seed, metric in enumerate(metrics)]


def analysis_of(runs, question=QUESTION, of=NOTHING):
    return analyzed(question, runs, of)


def test_differences_are_of_the_seeds_that_both_have_complete():
    runs = seeds(BASE, [2.0, 3.0, 4.0, 9.0]) + seeds(KBETA, [1.5, 2.6, None])
    [one] = analysis_of(runs).compared
    assert (one.cell.arm, one.against.arm, one.paired.difference.n) == (KBETA, BASE, 2)
    assert one.paired.difference.mean == pytest.approx(-0.45)


def test_arms_are_compared_within_a_budget_and_a_backend_alone():
    runs = [
        run
        for arm, gain in ((BASE, 0.0), (KBETA, 1.0))
        for budget in (1000, 2000)
        for backend in ("torch", "mlx")
        for run in seeds(arm, [5 - gain * budget / 1000, 6 - gain * budget / 1000], budget=budget, backend=backend)
    ]
    found = analysis_of(runs).compared
    assert {(one.cell.budget, one.cell.backend) for one in found} == {
        (budget, backend) for budget in (1000, 2000) for backend in ("torch", "mlx")
    }
    assert all(one.paired.difference.mean == pytest.approx(-one.cell.budget / 1000) for one in found)


def test_p_is_corrected_over_all_comparisons_and_without_a_baseline_all_pairs_are_compared():
    runs = seeds(BASE, [2.0, 2.1, 2.3]) + seeds(OTHER, [2.1, 2.2, 2.5]) + seeds(KBETA, [1.0, 1.2, 1.2])
    [alone] = analysis_of([run for run in runs if run.arm != OTHER]).compared
    assert alone.t_p == alone.paired.t_p, "of one comparison as it is"
    found = analysis_of(runs, replace(QUESTION, baseline="")).compared
    assert [(one.cell.arm, one.against.arm) for one in found] == [(OTHER, BASE), (KBETA, BASE), (KBETA, OTHER)]
    smallest = min(found, key=lambda one: one.paired.t_p)
    assert smallest.t_p == pytest.approx(3 * smallest.paired.t_p)


def test_runs_that_diverged_are_named_and_in_no_mean():
    analysis = analysis_of(seeds(BASE, [2.0, 3.0]) + seeds(KBETA, [1.0, None, 2.0], message="loss is not finite"))
    assert analysis.cells[1].estimate.mean == 1.5
    assert [(run.arm, run.seed) for run in analysis.lost] == [(KBETA, 1)]
    assert "kbeta, 1,000 steps, torch: 1 of 3 runs diverged or failed, and are in no mean" in analysis.alarms
    assert tables_of(QUESTION, analysis)["lost"].rows[1][:4] == (KBETA, "1", "diverged", "loss is not finite")


def test_an_arm_without_a_complete_run_is_shown_as_that():
    analysis = analysis_of(seeds(BASE, [2.0, 3.0]) + seeds(KBETA, [None, None]))
    assert "kbeta, 1,000 steps, torch: no complete run" in analysis.alarms
    assert analysis.compared[0].paired is None
    rows = tables_of(QUESTION, analysis)
    assert "no complete run" in rows["final"].rows[2]
    assert "no seed in common" in rows["compared"].rows[1]


def test_one_seed_has_no_interval_and_that_is_said():
    analysis = analysis_of(seeds(BASE, [2.0]) + seeds(KBETA, [1.0]))
    text = study_text(QUESTION, analysis)
    assert "ALARM: one seed only, so there is no interval: adam .95, 1,000 steps, torch; kbeta" in text
    assert analysis.compared[0].t_p is None
    assert "[" not in text.partition("\n\n")[2]


def test_one_run_by_two_versions_of_the_code_is_an_alarm():
    runs = seeds(BASE, [2.0, 3.0]) + seeds(KBETA, [1.0, 2.0]) + [result(KBETA, 1, 1.5, folder=Path("newer"))]
    analysis = analysis_of(runs)
    assert analysis.cells[1].by_seed == {0: 1.0, 1: 1.5}
    assert [line for line in analysis.alarms if "kbeta-1 and newer are one run by different code" in line]


def test_arms_that_come_out_alike_to_the_bit_are_an_alarm():
    runs = seeds(BASE, [2.0, 3.0]) + seeds(OTHER, [1.5, 2.5]) + seeds(KBETA, [1.5, 2.5])
    alarm = "adam .999, 1,000 steps, torch: kbeta has the same metric on every seed, so they differ in nothing at work"
    assert analysis_of(runs).alarms == (alarm,)


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([], "no run is complete"),
        ([result(BASE, 0, None)], "no run is complete"),
        ([result(BASE, 0, None, status="complete")], "it is in no result.json"),
    ],
)
def test_a_metric_that_no_run_has_is_a_mistake(runs, why):
    with pytest.raises(UserError, match=rf"A study: no run has metrics\.val_loss: {why}"):
        analysis_of(runs)


def test_the_tuning_has_a_column_for_each_point_in_order():
    runs = seeds(BASE, [2.0, 3.0]) + [
        result(arm, 1000, metric, stage="tuning", point={"lr": lr})
        for arm, metrics in ((BASE, {1e-3: 2.2, 3e-4: 2.5, 1e-2: None}), (KBETA, {1e-3: 1.5, 3e-2: 1.6}))
        for lr, metric in metrics.items()
    ]
    table = tables_of(replace(QUESTION, best={(BASE, 1000): "lr 0.001"}), analysis_of(runs))["tuned"]
    assert (table.title, table.rows) == (
        "Tuning, 1,000 steps",
        [
            ("arm", "best", "lr 0.0003", "lr 0.001", "lr 0.01", "lr 0.03"),
            (BASE, "lr 0.001", "2.5000", "2.2000", "diverged", ""),
            (KBETA, "", "", "1.5000", "", "1.6000"),
        ],
    )


def test_time_to_a_target_counts_who_never_reaches_it():
    runs = seeds(BASE, [1.9] * 7) + seeds(KBETA, [1.0] * 7)
    of = {run.folder: curves([3.0, 2.5, 2.2, 2.0], 0.1) for run in runs if run.arm == BASE}
    of |= {run.folder: curves([3.0, 2.0, 1.5], 0.3) for run in runs if run.arm == KBETA}
    of[runs[3].folder] = curves([3.0, 2.9, 2.8])
    of[runs[10].folder] = curves([3.0, 2.9, 2.8])  # the same seed: it says nothing of which is faster
    of[runs[4].folder] = curves([3.0, 2.9, 2.8])
    base, kbeta = analysis_of(runs, of=of).reached
    assert (base.steps.value, base.steps.interval, base.missed) == (400, (400, math.inf), (3, 4))
    assert (kbeta.steps.value, kbeta.steps.interval, kbeta.missed) == (200, (200, math.inf), (3,))
    assert base.faster_in_steps is None
    assert (kbeta.faster_in_steps.n, kbeta.faster_in_steps.value) == (6, 2.0)
    assert kbeta.faster_in_steps.interval == (2.0, math.inf)
    assert kbeta.faster_in_seconds.value == pytest.approx(40 / 60)
    assert kbeta.peak_bytes.value == 1 << 20
    rows = tables_of(QUESTION, analysis_of(runs, of=of))["reached"].rows
    assert rows[1][-1] == "seed 3, 4"


def test_columns_that_all_rows_share_are_in_the_title():
    runs = seeds(BASE, [2.0, 3.0]) + seeds(OTHER, [2.0, 3.1]) + seeds(KBETA, [1.5, 2.6])
    table = tables_of(QUESTION, analysis_of(runs))["compared"]
    assert table.title == "Paired differences, p corrected for 2 comparisons, less adam .95, 1,000 steps, torch"
    assert table.rows[0][:3] == ("arm", "difference", "95% (t)")


@pytest.mark.parametrize(("metrics", "close"), [((2.0, 2.05, 3.0), True), ((2.0, 2.3, 3.0), False)])
def test_a_choice_that_may_be_chance_is_an_alarm(metrics, close):
    tuning = [
        result(BASE, 1000, metric, stage="tuning", point={"lr": lr})
        for lr, metric in zip((0.001, 0.003, 0.01), metrics, strict=True)
    ]
    alarms = analysis_of(seeds(BASE, [2.0, 2.2, 2.4]) + tuning).alarms
    said = f"{BASE}, 1,000 steps, torch: its tuning tells lr 0.001 from lr 0.003 by 0.0500, and chance alone by 0.2828"
    assert any(line.startswith(said) for line in alarms) == close


def test_runs_whose_loss_rises_towards_the_end_are_an_alarm():
    runs = seeds(BASE, [2.0, 2.0, 2.0])
    ends = zip(runs, (1.9, 1.99, 2.0), strict=True)
    alarms = analysis_of(runs, of={run.folder: curves([3.0, low, 2.0]) for run, low in ends}).alarms
    assert f"{BASE}, 1,000 steps, torch: 1 of 3 runs end with a validation loss more than 2% above their lowest" in str(
        alarms
    )
