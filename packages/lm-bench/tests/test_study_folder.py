"""The folder of a study, which is not mistaken for another one's, its table, and a challenge of what it says."""

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lm_bench.environment import observe
from lm_bench.study.challenge import agreement_table, agreements, missing
from lm_bench.study.config import StudyConfig
from lm_bench.study.differences import Difference
from lm_bench.study.folder import (
    StudyAbout,
    check_folder,
    counted,
    machines_with,
    prepare_folder,
    read_about,
    read_study,
)
from lm_bench.study.harness import Harness
from lm_bench.study.result import RunResult
from lm_bench.study.table import rows_of, tables_of
from lm_bench.study.tuning import Choice
from lm_core.errors import UserError

from .study_files import STUDY

ONE = RunResult("A", {"lr": 0.1}, 4, 0, "torch", "comparison", "complete", "", 0.1 + 0.2, 1.0, 4, None, "h", Path())
ABOUT = StudyAbout(
    "c0de",
    machines_with([], observe({}, 0.0)),
    {"A": {"optimizer.beta2": 0.9}},
    [Difference("optimizer.beta2", {"A": 0.9, "B": 0.95}, alarm=False)],
    [Choice("A", 4, {"lr": 0.1}, ("lr",), 3)],
    ["an alarm"],
    {"A": "da7a"},
)
KNOWN = "c0de", {"A": "da7a"}
"""Code version and data."""


def study(**changes):
    return StudyConfig.parse({**STUDY, **changes})


def test_what_is_known_of_a_study_comes_back(tmp_path):
    prepare_folder(tmp_path / "out", study(base={"schedule.kind": "cosine"}))
    ABOUT.write(tmp_path / "out")
    assert read_about(tmp_path / "out") == ABOUT
    assert read_study(tmp_path / "out") == study(base={"schedule": {"kind": "cosine"}})


@pytest.mark.parametrize(
    ("changes", "code", "data", "said"),
    [
        ({"seeds": 3}, "c0de", "da7a", "has the results of another study: seeds differ"),
        ({"arms": {"A": {"beta2": 0.7}, "C": {}}}, "c0de", "da7a", "another study: arms.A.beta2, arms.B.beta2 differ"),
        ({}, "other", "da7a", "has the results of code version c0de, and this is other"),
        ({}, "c0de", "other", "has results of other data: what A reads has changed"),
    ],
)
def test_a_folder_of_another_study_code_version_or_data_is_refused(tmp_path, changes, code, data, said):
    assert check_folder(tmp_path, study(), *KNOWN) is None
    prepare_folder(tmp_path, study())
    assert check_folder(tmp_path, study(), *KNOWN) is None
    ABOUT.write(tmp_path)
    assert check_folder(tmp_path, study(), *KNOWN) == ABOUT
    with pytest.raises(UserError, match=said):
        check_folder(tmp_path, study(**changes), code, {"A": data})


def test_results_of_which_nothing_is_known_are_refused(tmp_path):
    prepare_folder(tmp_path, study())
    replace(ONE, folder=tmp_path / "trials" / "h").write()
    with pytest.raises(UserError, match=r"has results and no study\.json"):
        check_folder(tmp_path, study(), *KNOWN)


def test_a_study_of_an_earlier_version_is_read(tmp_path):
    ABOUT.write(tmp_path)
    said = json.loads((tmp_path / "study.json").read_text())
    said["environment"] = said.pop("machines")[0]
    del said["data"]
    (tmp_path / "study.json").write_text(json.dumps(said))
    assert read_about(tmp_path) == replace(ABOUT, data={})


def test_a_machine_is_known_whatever_its_date_and_load():
    here = replace(observe({}, 0.0), cpu="one")
    later = replace(here, date="2001-01-01", load=3.0)
    machines = machines_with(machines_with(machines_with([], here), later), replace(here, cpu="another"))
    assert [(machine["cpu"], machine["date"]) for machine in machines] == [("one", here.date), ("another", here.date)]


def test_what_was_compared_at_a_point_that_is_not_chosen_counts_for_nothing(tmp_path):
    prepare_folder(tmp_path, study())
    for index, (stage, lr) in enumerate([("tuning", 0.3), ("comparison", 0.3), ("tuning", 0.1), ("comparison", 0.1)]):
        replace(ONE, stage=stage, point={"lr": lr}, folder=tmp_path / "trials" / str(index)).write()
    kept = [(run.stage, run.point["lr"]) for run in counted(tmp_path, ABOUT)]
    assert kept == [("tuning", 0.1), ("tuning", 0.3), ("comparison", 0.1)]


def test_a_folder_of_something_else_is_refused_and_one_that_was_just_begun_is_not(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / ".study.toml.0123456789abcdef.new").touch()
    check_folder(tmp_path, study(), *KNOWN)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="is not empty, and not the folder of a study"):
        check_folder(tmp_path, study(), *KNOWN)


def test_the_table_has_a_row_for_each_run_and_its_figures_to_the_bit():
    diverged = replace(ONE, seed=1, status="diverged", message="step 3: the loss is nan", metric=None)
    tables = dict(tables_of(rows_of(study(), [ONE, diverged])))
    rows = list(csv.DictReader(io.StringIO(tables["results.csv"].decode())))
    assert [row["lr"] for row in rows] == ["0.1", "0.1"]
    assert float(rows[0]["metrics.val_loss"]) == 0.1 + 0.2
    assert (rows[1]["metrics.val_loss"], rows[1]["message"]) == ("", "step 3: the loss is nan")
    assert tables_of([]) == []
    if find_spec("pyarrow"):
        from pyarrow import parquet

        [table] = parquet.read_table(io.BytesIO(tables["results.parquet"])).to_pylist()[:1]
        assert table["metrics.val_loss"] == 0.1 + 0.2


def test_a_parquet_column_has_one_type():
    pytest.importorskip("pyarrow")
    for values in ((0.1, 1), ("cosine", 0.1), (None, True)):
        runs = [replace(ONE, point={"lr": value} if value is not None else {}) for value in values]
        assert dict(tables_of(rows_of(study(), runs)))["results.parquet"]


def runs(metrics):
    return [replace(ONE, seed=seed, metric=metric) for seed, metric in enumerate(metrics)]


def agreed(published, own, smallest_effect=0.01):
    return agreements(["A", *map(str, range(20))], published, own, smallest_effect, 0.05)


@pytest.mark.parametrize(
    ("own", "verdict", "why"),
    [
        ([1.0, 2.0, 3.0], "bit for bit", ""),
        ([1.0, 2.0, 3.0000000000000004], "agrees", ""),
        ([1.004, 2.004, 3.005], "agrees", ""),  # a difference that does not matter
        ([1.5, 1.4, 3.3], "not told apart", ""),  # one that is within chance, and may matter
        ([1.5, 2.4, 3.6], "differs", ""),
        ([1.0, 2.0, None], "differs", "seed 2 complete there only"),
    ],
)
def test_a_challenge_agrees_to_the_bit_or_but_for_what_does_not_matter(own, verdict, why):
    [found] = agreed(runs([1.0, 2.0, 3.0]), runs(own))
    assert (found.verdict, found.why) == (verdict, why)
    assert verdict in agreement_table([found])


def test_a_challenge_says_where_the_tuning_has_chosen_another_point():
    own = [replace(run, point={"lr": 0.3}) for run in runs([1.0, 2.0])]
    [found] = agreed(runs([1.0, 2.0]), own)
    assert (found.verdict, found.why) == ("bit for bit", "at lr 0.3 instead of lr 0.1")


def test_repetitions_that_are_faithful_seldom_differ():
    """Of 20 cells, with noise that is another one each time: at most alpha of the studies, over all their cells."""
    numbers = np.random.default_rng(0)
    both = numbers.normal(2.0, 0.1, (400, 2, 20, 10))
    wrong = 0
    for studies in both:
        one, other = ([replace(r, arm=str(arm)) for arm, row in enumerate(s) for r in runs(row)] for s in studies)
        wrong += any(found.verdict == "differs" for found in agreed(one, other, 1e-6))
    assert wrong <= 30  # of 20 that are expected; 5% and 2.3 standard deviations


def test_cells_that_are_equal_do_not_hide_one_that_is_not():
    one = [replace(run, arm=str(arm)) for arm in range(20) for run in runs([1.0, 2.0, 3.0])]
    other = [*one[3:], *(replace(run, arm="0") for run in runs([1.5, 2.4, 3.6]))]
    assert Counter(found.verdict for found in agreed(one, other)) == {"bit for bit": 19, "differs": 1}


def test_a_challenge_names_what_only_one_study_has():
    other = [replace(run, arm="B") for run in runs([1.0])]
    assert missing("AB", runs([1.0]), other) == ["A, 4 steps, torch", "B, 4 steps, torch"]
    tuning = [replace(run, stage="tuning") for run in runs([1.0])]
    assert agreed(tuning, tuning) == []


@pytest.mark.parametrize("retry", [False, True])
def test_retry_runs_again_what_failed_and_not_what_diverged(tmp_path, retry):
    prepare_folder(tmp_path, study())
    for status in ("complete", "diverged", "failed", "out of memory"):
        replace(ONE, status=status, config_hash=status, folder=tmp_path / "trials" / status).write()
        (tmp_path / "trials" / status / "checkpoints").mkdir()
    harness = Harness(study(), None, tmp_path, 1, retry=retry)
    harness.read_done()
    assert set(harness.done) == {"complete", "diverged"} | (set() if retry else {"failed", "out of memory"})
    assert {path.name for path in (tmp_path / "trials").iterdir()} == set(harness.done)
    assert not list(tmp_path.glob("trials/*/checkpoints"))
