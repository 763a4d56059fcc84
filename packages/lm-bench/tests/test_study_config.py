"""A study's file, and the results in its folder."""

import pytest

from lm_bench.study.config import StudyConfig
from lm_bench.study.result import RunResult, results
from lm_core.errors import UserError

STUDY = {
    "name": "small",
    "question": "Is A better than B?",
    "app": "testbed_d",
    "smallest_effect": 0.01,
    "budgets": [10, 20],
    "seeds": 3,
    "base": {"d_model": 8},
    "tuned": {"lr": [1e-3, 1e-2]},
    "arms": {"A": {"opt": "kbeta"}, "B": {"opt": "adam"}},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sedes": 3}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"seeds": 1}, "seeds"),
        ({"budgets": [10, 10]}, "budgets: give each once"),
        ({"budgets": [0]}, "budgets: give steps, from 1"),
        ({"tuning_seeds": [2]}, "tuning_seeds: give seeds from 3"),
        ({"baseline": "C"}, "baseline: there is no arm 'C': A, B"),
        ({"arms": {"A": {}}}, "arms"),
        ({"arms": {"A": {"lr": 1.0}, "B": {}}}, "arms.A: 'lr' is tuned"),
        ({"base": {"lr": 1.0}}, "base: 'lr' is tuned"),
        ({"tuned": {"lr": []}}, "tuned: lr: give values, each once"),
        ({"grids": {"C": {}}}, "grids: there is no arm 'C'"),
        ({"grids": {"A": {"lr": [1.0]}}}, "grids.A: every arm gets as many trials"),
        ({"grids": {"A": {"wd": [1.0, 2.0]}}}, "grids.A: 'wd' is not among the tuned fields: lr"),
        ({"name": "../elsewhere"}, "name"),
        ({"app": "os.path"}, "app"),
    ],
)
def test_a_mistake_in_a_study_is_one_line(change, said):
    with pytest.raises(UserError) as error:
        StudyConfig.parse(STUDY | change, "study.toml")
    assert str(error.value).startswith("study.toml: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_nested_tables_are_dotted_keys_and_an_arm_may_have_its_own_grid():
    nested = {"A": {"optimizer": {"name": "muon"}}, "B": {"optimizer.name": "adamw"}}
    study = StudyConfig.parse(STUDY | {"arms": nested, "grids": {"B": {"lr": [1.0, 2.0]}}})
    assert study.arms == {"A": {"optimizer.name": "muon"}, "B": {"optimizer.name": "adamw"}}
    assert study.grid("A") == {"lr": (1e-3, 1e-2)}
    assert study.grid("B") == {"lr": (1.0, 2.0)}


def _result(folder, seed, stage="comparison"):
    return RunResult(
        "A", {"lr": 1e-3}, 10, seed, "torch", stage, "complete", "", 0.1 + 0.2, 1.0, 10, None, f"h{seed}", folder
    )


def test_results_come_back_as_they_were_written_in_one_order(tmp_path):
    written = [
        _result(tmp_path / "trials" / f"h{seed}", seed, "tuning" if seed > 9 else "comparison") for seed in (2, 1, 10)
    ]
    for result in written:
        result.write()
    (tmp_path / "study.toml").write_text("")
    assert results(tmp_path) == [written[2], written[1], written[0]]


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a study"):
        results(tmp_path)
